"""Access tokens.

* ``jwk`` - keys in the forms in which people have them;
* ``factory`` - the claims, and what signs them;
* ``source`` - the tokens that an application is configured to use.
"""
