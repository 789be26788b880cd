#!/bin/bash
# Keep a copy on the GPU runner, outside the work folder, and name it in the runner's .env file:
# ACTIONS_RUNNER_HOOK_JOB_STARTED=/path/to/gpu-runner.sh. The runner then refuses, before its first
# step, every job that is not the publication of the main branch: above all those of pull requests.
set -euo pipefail
allowed="$GITHUB_REPOSITORY/.github/workflows/publish.yml@refs/heads/main"
if [[ $GITHUB_EVENT_NAME != push || $GITHUB_REF != refs/heads/main || $GITHUB_WORKFLOW_REF != "$allowed" ]]; then
  echo "::error::This runner takes only $allowed on a push, not $GITHUB_WORKFLOW_REF on $GITHUB_EVENT_NAME."
  exit 1
fi
