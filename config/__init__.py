"""How much: numbers and wiring. Runs from the checkout or the image, never from a wheel."""
