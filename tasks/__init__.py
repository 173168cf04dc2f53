"""When: Celery tasks and canvases. Runs from the checkout or the image, never from a wheel."""
