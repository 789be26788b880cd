"""The workflows: what they may do, what they run, and that nothing is published that did not run."""

import os
import re
import subprocess

import pytest
import yaml

from website.pages import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
READING = {"contents": "read"}
WRITING = {("publish.yml", "publish"): {"pages": "write", "id-token": "write"},
           ("weekly.yml", "report"): {"issues": "write"}}  # fmt: skip


def problems(text, name):
    """What a workflow may not do."""
    found = []
    workflow = yaml.safe_load(text)
    triggers = workflow[True]  # YAML 1.1 reads "on" as true
    for line in re.findall(r"\buses:\s*(.*)", text):
        if not PINNED.fullmatch(line):
            found.append(f"{line}: not pinned to a commit with its version as a comment")
    if workflow.get("permissions") != {}:
        found.append("the workflow itself holds permissions")
    if "concurrency" not in workflow:
        found.append("no concurrency")
    if {"pull_request_target", "workflow_run"} & set(triggers):
        found.append("a trigger that runs untrusted code with rights")
    for job_name, job in workflow["jobs"].items():
        steps = job["steps"]
        checks_out = any(step.get("uses", "").startswith("actions/checkout@") for step in steps)
        allowed = WRITING.get((name, job_name), READING if checks_out else {})
        if job.get("permissions") != allowed:
            found.append(f"{job_name}: permissions {job.get('permissions')}, expected {allowed}")
        if "timeout-minutes" not in job:
            found.append(f"{job_name}: no timeout")
        if "write" in allowed.values() and checks_out:
            found.append(f"{job_name}: runs the project's code and may write")
        for step in steps:
            if step.get("uses", "").startswith("actions/checkout@") and step["with"]["persist-credentials"] is not False:
                found.append(f"{job_name}: leaves its token in the checkout")
        if "GPU_RUNNER" in str(job["runs-on"]) and set(triggers) != {"push"}:
            found.append(f"{job_name}: the GPU runner is reached by {sorted(triggers)}")
    return found


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflow(file):
    assert not problems(file.read_text(encoding="utf-8"), file.name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "checkout@v7", "not pinned"),
        (" # v7.0.1", "", "not pinned"),
        ("permissions: {}\n", "permissions: write-all\n", "the workflow itself holds permissions"),
        ("permissions: {}\n\n", "", "the workflow itself holds permissions"),
        ("contents: read", "contents: write", "cpu: permissions {'contents': 'write'}"),
        ("persist-credentials: false", "persist-credentials: true", "cpu: leaves its token in the checkout"),
        ("    timeout-minutes: 60\n", "", "cpu: no timeout"),
        ("concurrency:", "env:", "no concurrency"),
        ("pull_request:", "pull_request_target:", "untrusted code with rights"),
        ("runs-on: ubuntu-24.04", "runs-on: ${{ vars.GPU_RUNNER }}", "the GPU runner is reached by ['pull_request'"),
    ],
)
def test_notices(old, new, message):
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert old in text
    found = problems(text.replace(old, new), "ci.yml")
    assert any(message in problem for problem in found), found


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def test_publishing_needs_cpu_and_gpu():
    jobs = workflow("publish.yml")["jobs"]
    assert workflow("publish.yml")[True] == {"push": {"branches": ["main"]}}
    assert jobs["publish"]["needs"] == ["cpu", "gpu"]
    assert jobs["gpu"]["needs"] == "gpu-runner"
    assert not {"if", "continue-on-error"} & (set(jobs["publish"]) | set(jobs["gpu"]))
    deploying = [name for name, job in jobs.items() if any("deploy-pages" in s.get("uses", "") for s in job["steps"])]
    assert deploying == ["publish"]


def test_workflows_run_the_commands_of_the_house():
    """What a workflow runs is what a reader runs: the README's `make test` first, and targets that exist."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in WORKFLOWS)
    makefile, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "README.md"))
    for target in sorted(set(re.findall(r"\bmake (\S+)", text))):
        assert re.search(rf"^{re.escape(target.replace('.venv', '$(VENV)'))}:", makefile, re.MULTILINE), f"make {target}"
    assert "make test" in readme
    for name, job in [("ci.yml", "cpu"), ("publish.yml", "cpu"), ("publish.yml", "gpu")]:
        assert next(step["run"] for step in workflow(name)["jobs"][job]["steps"] if "run" in step) == "make test"
    for name in ("ci.yml", "publish.yml"):
        assert "--no-skips" in workflow(name)["jobs"]["cpu"]["env"]["PYTEST_ADDOPTS"]


@pytest.mark.parametrize(
    ("event", "ref", "workflow", "code"),
    [
        ("push", "refs/heads/main", "publish.yml@refs/heads/main", 0),
        ("pull_request", "refs/pull/7/merge", "ci.yml@refs/pull/7/merge", 1),
        ("pull_request", "refs/heads/main", "publish.yml@refs/heads/main", 1),
        ("push", "refs/heads/other", "publish.yml@refs/heads/other", 1),
        ("push", "refs/heads/main", "ci.yml@refs/heads/main", 1),
    ],
)
def test_gpu_runner_takes_only_the_publication_of_main(event, ref, workflow, code):
    result = subprocess.run(
        ["bash", str(ROOT / ".github" / "gpu-runner.sh")],
        env={"PATH": os.environ["PATH"], "GITHUB_EVENT_NAME": event, "GITHUB_REF": ref, "GITHUB_REPOSITORY": "us/site",
             "GITHUB_WORKFLOW_REF": f"us/site/.github/workflows/{workflow}"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert result.returncode == code
    assert bool(result.stdout) == bool(code)
