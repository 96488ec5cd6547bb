"""Which topics a matcher selects (spec, Matcher Types). Needs the compiled libraries urlpattern and re2."""
