"""Many runs side by side: one page, one table in a terminal."""
