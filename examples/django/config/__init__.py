"""The site's own settings; the workers have a ``config`` of theirs."""
