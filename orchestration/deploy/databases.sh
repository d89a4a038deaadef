#!/bin/sh
# Make a role and a database each for Dagster and MLflow, at the first start of PostgreSQL.
set -eu

for name in dagster mlflow; do
  psql -v ON_ERROR_STOP=1 --username postgres --set name="$name" --set secrets="${SECRETS:-/run/secrets}" <<'SQL'
\set password `cat :'secrets'/:'name'_db_password`
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
