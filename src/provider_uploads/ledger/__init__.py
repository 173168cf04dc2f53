"""What is known in Redis about uploads and questions, and who may change it."""
