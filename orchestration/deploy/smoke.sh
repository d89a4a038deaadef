#!/bin/sh
# Start the services of compose.yaml as a project of their own, ask for a forecast through the gateway, and remove the
# project: `make compose-smoke`. Another project on this machine is not touched.
set -eu

WAIT_S=900 # the first start builds two images
export GATEWAY_PORT=18080 COMPOSE_PROJECT_NAME=cryptovol-smoke API_UPSTREAMS=cryptovol-smoke-api-1:8000
gateway="http://localhost:$GATEWAY_PORT" # the name: MLflow looks at the port, too

finish() {
  status=$?
  [ "$status" -eq 0 ] || docker compose --profile replay logs --tail 30
  docker compose --profile replay down --volumes --timeout 40
  exit "$status"
}
trap finish EXIT

docker compose --profile replay up --build --detach
waited=0
until curl -fsS --max-time 5 "$gateway/health" > /dev/null 2>&1; do
  [ "$waited" -lt "$WAIT_S" ] || { echo "no healthy API behind the gateway after $WAIT_S s" >&2; exit 1; }
  sleep 5
  waited=$((waited + 5))
done
status="$(curl -s -o /dev/null -w '%{http_code}' "$gateway/predict/BTC-USD")"
[ "$status" = 401 ] || { echo "/predict/BTC-USD answers $status without a key" >&2; exit 1; }
# By a file: a process list shows the words of a command.
printf 'header = "authorization: Bearer %s"\n' "$(cat secrets/api_key)" |
  curl -fsS --config - "$gateway/predict" -H 'content-type: application/json' \
  -d '{"rows": [{"ret_mean": 0.00001, "ret_std": 0.0002, "n": 50}]}'
echo
for page in dagster/ mlflow/; do
  status="$(curl -s -o /dev/null -w '%{http_code}' "$gateway/$page")"
  [ "$status" = 401 ] || { echo "/$page answers $status without a password" >&2; exit 1; }
  curl -fsS -o /dev/null -u "${UI_USER:-cryptovol}:$(cat secrets/ui_password)" "$gateway/$page"
done
curl -fsS -o /dev/null "$gateway/grafana/login"
echo "the API answers with its key, the pages ask for a password"
