#!/bin/sh
# What CDDS needs on Kafka, and no more; made by `cdds topics acls --script`, and harmless to run again.
#
#   deploy/kafka/acls.sh --bootstrap-server kafka:9093 --command-config admin.properties
#
# Principals with other names: SCHEDULER='User:CN=scheduler' deploy/kafka/acls.sh …
set -eu
acls="${KAFKA_ACLS:-kafka-acls.sh}"

job_api="${JOB_API:-User:job_api}"
scheduler="${SCHEDULER:-User:scheduler}"
exporter="${EXPORTER:-User:exporter}"
history="${HISTORY:-User:history}"
operator="${OPERATOR:-User:operator}"
administrator="${ADMINISTRATOR:-User:administrator}"

"$acls" "$@" --add --allow-principal "$job_api" \
  --operation Read \
  --topic exporter.runs.v1 \
  --topic scheduler.runs.v1 \
  --group job_api

"$acls" "$@" --add --allow-principal "$job_api" \
  --operation Write \
  --topic exporter.runs.v1.dead \
  --topic job_api.certificates.v1 \
  --topic job_api.certificates.v1.replay \
  --topic job_api.jobs.v1 \
  --topic job_api.jobs.v1.replay \
  --topic scheduler.runs.v1.dead

"$acls" "$@" --add --allow-principal "$scheduler" \
  --operation Read \
  --topic exporter.runs.v1 \
  --topic job_api.jobs.v1 \
  --group scheduler

"$acls" "$@" --add --allow-principal "$scheduler" \
  --operation Write \
  --topic exporter.runs.v1.dead \
  --topic job_api.jobs.v1.dead \
  --topic scheduler.runs.v1 \
  --topic scheduler.runs.v1.replay

"$acls" "$@" --add --allow-principal "$exporter" \
  --operation Write \
  --topic exporter.runs.v1 \
  --topic exporter.runs.v1.replay \
  --topic job_api.certificates.v1.dead \
  --topic scheduler.runs.v1.dead

"$acls" "$@" --add --allow-principal "$exporter" \
  --operation Read \
  --topic job_api.certificates.v1 \
  --topic scheduler.runs.v1 \
  --group exporter

"$acls" "$@" --add --allow-principal "$history" \
  --operation Read \
  --topic exporter.runs.v1 \
  --topic exporter.runs.v1.replay \
  --topic job_api.certificates.v1 \
  --topic job_api.certificates.v1.replay \
  --topic job_api.jobs.v1 \
  --topic job_api.jobs.v1.replay \
  --topic scheduler.runs.v1 \
  --topic scheduler.runs.v1.replay \
  --group history

"$acls" "$@" --add --allow-principal "$history" \
  --operation Write \
  --topic exporter.runs.v1.dead \
  --topic job_api.certificates.v1.dead \
  --topic job_api.jobs.v1.dead \
  --topic scheduler.runs.v1.dead

"$acls" "$@" --add --allow-principal "$operator" \
  --operation Write \
  --operation Describe \
  --operation DescribeConfigs \
  --topic exporter.runs.v1 \
  --topic job_api.certificates.v1 \
  --topic job_api.jobs.v1 \
  --topic scheduler.runs.v1

"$acls" "$@" --add --allow-principal "$operator" \
  --operation Read \
  --operation Write \
  --operation Describe \
  --operation DescribeConfigs \
  --topic exporter.runs.v1.dead \
  --topic job_api.certificates.v1.dead \
  --topic job_api.jobs.v1.dead \
  --topic scheduler.runs.v1.dead

"$acls" "$@" --add --allow-principal "$operator" \
  --operation Describe \
  --operation DescribeConfigs \
  --topic exporter.runs.v1.replay \
  --topic job_api.certificates.v1.replay \
  --topic job_api.jobs.v1.replay \
  --topic scheduler.runs.v1.replay

"$acls" "$@" --add --allow-principal "$operator" \
  --operation Describe \
  --group exporter \
  --group history \
  --group job_api \
  --group scheduler

"$acls" "$@" --add --allow-principal "$administrator" \
  --operation Create \
  --operation Alter \
  --operation Describe \
  --operation DescribeConfigs \
  --operation AlterConfigs \
  --topic exporter.runs.v1 \
  --topic exporter.runs.v1.dead \
  --topic exporter.runs.v1.replay \
  --topic job_api.certificates.v1 \
  --topic job_api.certificates.v1.dead \
  --topic job_api.certificates.v1.replay \
  --topic job_api.jobs.v1 \
  --topic job_api.jobs.v1.dead \
  --topic job_api.jobs.v1.replay \
  --topic scheduler.runs.v1 \
  --topic scheduler.runs.v1.dead \
  --topic scheduler.runs.v1.replay
