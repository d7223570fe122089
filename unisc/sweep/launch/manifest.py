"""Kubernetes: workers as one manifest to apply, an Indexed Job, or a JobSet where several hosts train one run together.

Nothing is sent anywhere: `kubectl apply -f` does that, xpk and Kueue take the same objects. What the control plane restarts:
a pod whose worker says 75 (asked to stop) or whose node goes away, without counting; a crash, up to MAX_CRASHES times a
worker; never a worker whose budget is spent (3). A mistake in the input (2) ends all.
"""

import re
import secrets
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from unisc.errors import InputError
from unisc.files import make_folder, write_atomic
from unisc.sweep import worker as work
from unisc.sweep.launch.environment import check_workers, name_of, variables
from unisc.sweep.launch.supervise import MAX_CRASHES
from unisc.sweep.profile import Profile

RESOURCES = {"cuda": "nvidia.com/gpu", "tpu": "google.com/tpu"}
GRACE_SECS = 120
COORDINATOR_PORT = 8476
KEYS = ("claim", "mount", "namespace", "service_account", "queue", "resource")
"""Keys of a profile's `kubernetes` table; any other must hold a slash, and is a label that nodes must have."""


def submit(sweep_dir: Path, *, workers: int, profile: Profile) -> list[str]:
    """Write the manifest into the sweep's folder and return its path. Each call names its workers anew, so that they add up.

    Raises:
      InputError: fewer than one worker, or a profile without image or claim, with unknown keys or another mount.
    """
    check_workers(workers)
    sweep_dir = Path(sweep_dir).absolute()
    slug = re.sub(r"[^a-z0-9]+", "-", name_of(sweep_dir).lower())[:30].strip("-") or "sweep"
    name = f"unisc-{slug}-{secrets.token_hex(3)}"
    text = yaml.safe_dump(manifest(sweep_dir, name=name, workers=workers, profile=profile), sort_keys=False, width=120)
    path = make_folder(sweep_dir / "kubernetes") / f"{name}.yaml"
    write_atomic(path, text)
    return [str(path)]


def manifest(sweep_dir: Path, *, name: str, workers: int, profile: Profile) -> dict[str, Any]:
    """Return the Job, or the JobSet where `hosts_per_worker` is more than 1, as plain values."""
    table = _checked(sweep_dir, profile)
    metadata: dict[str, Any] = {"name": name}
    if "namespace" in table:
        metadata["namespace"] = table["namespace"]
    if "queue" in table:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": table["queue"]}
    if profile.hosts_per_worker == 1:
        # Workers know nothing of each other, but JAX would take the index of a pod for its place in a cluster.
        command = ["env", "-u", "JOB_COMPLETION_INDEX", *_command(sweep_dir)]
        spec = _job(workers, _pod(sweep_dir, table, profile, command, []))
        rules = spec["podFailurePolicy"]["rules"]
        rules.append({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [work.EXIT_BUDGET_SPENT]}})
        spec["backoffLimitPerIndex"] = MAX_CRASHES
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    spec = _job(profile.hosts_per_worker, _pod(sweep_dir, table, profile, _command(sweep_dir), _cluster(name, profile)))
    spec["backoffLimit"] = MAX_CRASHES * profile.hosts_per_worker
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True},
            "failurePolicy": {"maxRestarts": 0},  # pods are restarted one by one; restarting the set would stop every worker
            "replicatedJobs": [{"name": "worker", "replicas": workers, "template": {"spec": spec}}],
        },
    }


def _job(completions: int, pod: Mapping[str, Any]) -> dict[str, Any]:
    codes = {"operator": "In"}
    return {
        "completionMode": "Indexed",
        "completions": completions,
        "parallelism": completions,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "Ignore", "onExitCodes": {**codes, "values": [work.EXIT_INTERRUPTED]}},
                {"action": "FailJob", "onExitCodes": {**codes, "values": [work.EXIT_INPUT_ERROR]}},
            ]
        },
        "template": {"spec": pod},
    }


def _pod(
    sweep_dir: Path, table: Mapping[str, str], profile: Profile, command: list[str], extra: list[dict[str, Any]]
) -> dict[str, Any]:
    resources = {"cpu": str(profile.cores), "memory": f"{round(profile.memory_gib_per_host * 1024)}Mi"}
    pod: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE_SECS}
    if "service_account" in table:
        pod["serviceAccountName"] = table["service_account"]
    if nodes := {key: value for key, value in table.items() if "/" in key}:
        pod["nodeSelector"] = nodes
    if profile.devices_per_host:
        device = table.get("resource", RESOURCES[profile.platform])
        resources[device] = str(profile.devices_per_host)
        pod["tolerations"] = [{"key": device, "operator": "Exists", "effect": "NoSchedule"}]
    env = variables(sweep_dir, profile.cores, platform=profile.platform)
    pod["containers"] = [
        {
            "name": "worker",
            "image": profile.image,
            "command": command,
            "env": [*({"name": key, "value": value} for key, value in env.items()), *extra],
            "resources": {"requests": resources, "limits": resources.copy()},
            "volumeMounts": [{"name": "sweeps", "mountPath": table["mount"]}],
        }
    ]
    pod["volumes"] = [{"name": "sweeps", "persistentVolumeClaim": {"claimName": table["claim"]}}]
    return pod


def _cluster(name: str, profile: Profile) -> list[dict[str, Any]]:
    """The variables by which the hosts of one worker find each other (`unisc.mesh.initialize_distributed`)."""
    index = {"fieldRef": {"fieldPath": "metadata.annotations['jobset.sigs.k8s.io/job-index']"}}
    rank = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    return [
        {"name": "WORKER_INDEX", "valueFrom": index},
        {"name": "JAX_PROCESS_ID", "valueFrom": rank},
        {"name": "JAX_NUM_PROCESSES", "value": str(profile.hosts_per_worker)},
        {"name": "JAX_COORDINATOR_ADDRESS", "value": f"{name}-worker-$(WORKER_INDEX)-0.{name}:{COORDINATOR_PORT}"},
    ]


def _command(sweep_dir: Path) -> list[str]:
    return ["python", "-m", "unisc.sweep.worker", "--sweep", str(sweep_dir)]  # the image's Python, not this machine's


def _checked(sweep_dir: Path, profile: Profile) -> dict[str, str]:
    """The profile's `kubernetes` table with its mount; raises InputError where something is missing or unknown."""
    if not profile.image:
        raise InputError("profile: has no image, which Kubernetes runs; give the profile image = a container with unisc in it")
    table = dict(profile.kubernetes)
    for key in table:
        if key not in KEYS and "/" not in key:
            raise InputError(f"profile: kubernetes.{key} is not known; give one of {', '.join(KEYS)}, or a label of nodes")
    if "claim" not in table:
        raise InputError("profile: has no kubernetes.claim; name the PersistentVolumeClaim that holds the sweep's folder")
    table.setdefault("mount", str(sweep_dir.parent))
    if not PurePosixPath(sweep_dir).is_relative_to(table["mount"]):
        raise InputError(f"{sweep_dir}: not below kubernetes.mount {table['mount']}, so pods would not see it; put it there")
    return table
