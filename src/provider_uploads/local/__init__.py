"""The stack on one machine: Redis, a local Gemini, workers, beat and Flower, supervised."""
