#!/bin/sh
# Start Alertmanager: pages and tickets go to the webhook whose URL is in the secret; an empty secret: nobody is told.
set -eu

: "${WEBHOOK_FILE:=/run/secrets/alert_webhook_url}" "${CONFIG:=/etc/alertmanager/alertmanager.yml}"
: "${WRITTEN:=/tmp/alertmanager.yml}"
if [ -s "$WEBHOOK_FILE" ]; then
  sed "s|# webhook_configs: .*|webhook_configs: [{url_file: $WEBHOOK_FILE}]|" "$CONFIG" > "$WRITTEN"
else
  cp "$CONFIG" "$WRITTEN"
fi
exec alertmanager --config.file="$WRITTEN" --storage.path=/alertmanager --cluster.listen-address=
