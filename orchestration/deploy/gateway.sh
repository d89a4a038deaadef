#!/bin/sh
# Start the gateway. Without PUBLIC_HOST it answers plain HTTP to names of loopback alone; with PUBLIC_HOST it answers
# HTTPS to that name, with a certificate that Caddy gets and renews.
set -eu

: "${LISTEN_PORT:=8080}" "${HEALTH_PORT:=8081}" "${CADDYFILE:=/etc/caddy/Caddyfile}"
if [ -n "${PUBLIC_HOST:-}" ]; then
  SITE_ADDRESS="https://$PUBLIC_HOST:$LISTEN_PORT"
  OTHER_ADDRESS="http://other.invalid:$HEALTH_PORT" # nobody's: TLS itself refuses other names
  HTTPS_PORT="$LISTEN_PORT"
else
  SITE_ADDRESS="http://localhost:$LISTEN_PORT, http://127.0.0.1:$LISTEN_PORT"
  OTHER_ADDRESS="http://:$LISTEN_PORT"
  HTTPS_PORT=8443 # unused
fi

password="$(cat "$UI_PASSWORD_FILE")"
if [ -z "$password" ]; then
  echo "$UI_PASSWORD_FILE is empty: \`make secrets\` makes a password" >&2
  exit 2
fi
UI_PASSWORD_HASH="$(echo "$password" | caddy hash-password)"

export HEALTH_PORT SITE_ADDRESS OTHER_ADDRESS HTTPS_PORT UI_PASSWORD_HASH
exec caddy run --adapter caddyfile --config "$CADDYFILE"
