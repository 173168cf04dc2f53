"""The input of a batch and its answers: read, checked, matched and written as streams."""
