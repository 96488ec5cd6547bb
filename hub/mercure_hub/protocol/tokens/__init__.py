"""Access tokens: where they are presented, who signed them, what they allow (spec, Authorization)."""
