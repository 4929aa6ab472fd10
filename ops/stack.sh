#!/bin/sh
# The whole stack by one command, on a machine with Docker: `sh ops/stack.sh`, on a GPU host `PROFILE=gpu sh ops/stack.sh`.
# Arguments go to `docker compose up`. The first run makes up the secrets; later ones keep them.
set -eu
cd "$(dirname "$0")/.."
secrets=ops/secrets

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

make_secrets() {
  umask 077
  mkdir -p "$secrets"
  if [ ! -e "$secrets/s3_credentials" ]; then
    access=$(random) secret=$(random)
    printf '{"identities": [{"name": "stream-worker", "credentials": [{"accessKey": "%s", "secretKey": "%s"}],\n "actions": ["Admin"]}]}\n' \
      "$access" "$secret" >"$secrets/s3_identities.json"
    printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$access" "$secret" >"$secrets/s3_credentials"
  fi
  [ -e "$secrets/grafana_password" ] || random >"$secrets/grafana_password"
  # Compose binds them into containers as they are, whose users are not ours: only the folder keeps others on this host out.
  chmod 0444 "$secrets"/*
  chmod 0700 "$secrets"
}

make_secrets
[ "${1:-}" = secrets ] && exit 0
mkdir -p weights
exec docker compose --profile "${PROFILE:-cpu}" up --build --detach --wait "$@"
