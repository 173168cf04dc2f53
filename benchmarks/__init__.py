"""Speed, as ratios against peers in the same run: ``python -m benchmarks``.

Everything is real: redis-server, worker processes, the local Gemini over HTTP, google-genai and
curl as the peers. Nothing here can fail on speed; an upload that fails, or counts that do not add
up, end the run.
"""
