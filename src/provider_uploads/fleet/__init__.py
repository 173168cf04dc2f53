"""What workers share through Redis: rate limits, queues, circuit breakers, who is there."""
