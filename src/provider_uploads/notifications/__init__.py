"""How host applications are told of an end: a signed POST, or a task of their own."""
