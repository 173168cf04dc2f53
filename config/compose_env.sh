#!/bin/sh
# Writes into .env what every `docker compose` command of this folder needs, so that scaling or
# restarting later changes nothing else. What is there already, or in the environment, counts.
set -eu
umask 077 # Flower's password

written() { grep -qsE "^$1=." .env; }
keep() { # NAME VALUE
  eval "given=\${$1:-}"
  written "$1" || printf '%s=%s\n' "$1" "${given:-$2}" >>.env
}

written PROVIDER_UPLOADS_USER || echo "# Written by make up-docker; yours to change." >>.env
keep PROVIDER_UPLOADS_USER "$(id -u):$(id -g)"
keep PROVIDER_UPLOADS_FILES "$(pwd)/files"
keep PROVIDER_UPLOADS_FLOWER_AUTH "operator:$(od -An -N9 -tx1 /dev/urandom | tr -d ' \n')"

if [ -z "${GEMINI_API_KEY:-}${PROVIDER_UPLOADS_WORKERS_BASE_URL:-}" ] &&
  ! written GEMINI_API_KEY && ! written PROVIDER_UPLOADS_WORKERS_BASE_URL; then
  keep COMPOSE_PROFILES local
  keep PROVIDER_UPLOADS_WORKERS_BASE_URL http://local-gemini:8123
  keep PROVIDER_UPLOADS_TIER unlimited
fi

value() { sed -n "s/^$1=//p" .env | tail -n 1; }
mkdir -p "${PROVIDER_UPLOADS_FILES:-$(value PROVIDER_UPLOADS_FILES)}"
echo "Settings are in .env. Flower: http://127.0.0.1:${PROVIDER_UPLOADS_FLOWER_PORT:-5555}" \
  "login ${PROVIDER_UPLOADS_FLOWER_AUTH:-$(value PROVIDER_UPLOADS_FLOWER_AUTH)}"
if [ "$(value COMPOSE_PROFILES)" = local ]; then
  echo "The workers use the local Gemini. To use Google's service, set GEMINI_API_KEY in .env and" \
    "remove COMPOSE_PROFILES, PROVIDER_UPLOADS_WORKERS_BASE_URL and PROVIDER_UPLOADS_TIER."
  echo "For doctor and files in another terminal: export" \
    "PROVIDER_UPLOADS_BASE_URL=http://127.0.0.1:${PROVIDER_UPLOADS_EMULATOR_PORT:-8123}" \
    "PROVIDER_UPLOADS_API_KEY=local"
fi
