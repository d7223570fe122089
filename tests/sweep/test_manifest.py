"""Manifests against the API's own schemas (kubernetes-validate), and against what a JobSet's controller reads."""

import dataclasses
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from unisc.errors import InputError
from unisc.sweep.launch import manifest
from unisc.sweep.profile import Profile, read_profiles

PROFILES = Path(__file__).parents[2] / "sweeps" / "profiles.toml"
TABLE = {"claim": "sweeps", "mount": "/sweeps"}
CPU = Profile(platform="cpu", device="cpu", cores_per_host=2, image="registry.example/unisc:1", kubernetes=TABLE)
SLICE = Profile(
    platform="tpu",
    device="v6e-16",
    devices_per_worker=16,
    hosts_per_worker=4,
    image="registry.example/unisc:1",
    kubernetes={**TABLE, "cloud.google.com/gke-tpu-topology": "4x4", "namespace": "lab", "queue": "q", "service_account": "s"},
)

# The parts that we use of jobset.x-k8s.io/v1alpha2 as kubernetes-sigs/jobset declares it in Go
# (api/jobset/v1alpha2/jobset_types.go); its definition is on no package index. A job's template is checked as a Job instead.
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
JOB_SET = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": {"type": "object", "required": ["name"], "properties": {"name": NAME}},
        "spec": {
            "type": "object",
            "required": ["replicatedJobs"],
            "additionalProperties": False,
            "properties": {
                "suspend": {"type": "boolean"},
                "ttlSecondsAfterFinished": {"type": "integer", "minimum": 0},
                "network": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "enableDNSHostnames": {"type": "boolean"},
                        "subdomain": {"type": "string"},
                        "publishNotReadyAddresses": {"type": "boolean"},
                    },
                },
                "failurePolicy": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"maxRestarts": {"type": "integer", "minimum": 0}},
                },
                "replicatedJobs": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["name", "template"],
                        "additionalProperties": False,
                        "properties": {
                            "name": NAME,
                            "replicas": {"type": "integer", "minimum": 1},
                            "template": {
                                "type": "object",
                                "required": ["spec"],
                                "additionalProperties": False,
                                "properties": {"spec": {"type": "object"}, "metadata": {"type": "object"}},
                            },
                        },
                    },
                },
            },
        },
    },
}


def check_job(job):
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def check_job_set(job_set):
    jsonschema.validate(job_set, JOB_SET)
    for replicated in job_set["spec"]["replicatedJobs"]:
        check_job(
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}, "spec": replicated["template"]["spec"]}
        )


def env_of(spec):
    [container] = spec["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_a_job_is_valid_and_starts_so_many_independent_workers(sweep):
    root = "/sweeps/my_Sweep 1"
    [path] = manifest.submit(sweep.dir, workers=3, profile=dataclasses.replace(CPU, kubernetes={"claim": "c"}))
    check_job(yaml.safe_load(Path(path).read_text()))
    job = manifest.manifest(Path(root), name="n", workers=3, profile=CPU)
    check_job(job)
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 3, "Indexed")
    [container] = spec["template"]["spec"]["containers"]
    assert container["command"] == [
        *("env", "-u", "JOB_COMPLETION_INDEX", "python", "-m", "unisc.sweep.worker", "--sweep", root)
    ]
    assert env_of(spec)["JAX_PLATFORMS"] == "cpu"
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4096Mi"}


def test_exit_statuses_decide_what_is_started_again(tmp_path):
    rules = manifest.manifest(Path("/sweeps/a"), name="n", workers=1, profile=CPU)["spec"]["podFailurePolicy"]["rules"]
    by_code = {tuple(rule["onExitCodes"]["values"]): rule["action"] for rule in rules if "onExitCodes" in rule}
    assert by_code == {(75,): "Ignore", (2,): "FailJob", (3,): "FailIndex"}
    assert [rule["action"] for rule in rules if "onPodConditions" in rule] == ["Ignore"]


def test_workers_of_several_hosts_are_a_valid_job_set_whose_hosts_find_each_other():
    job_set = manifest.manifest(Path("/sweeps/a"), name="unisc-a-0", workers=2, profile=SLICE)
    check_job_set(job_set)
    assert job_set["metadata"] == {"name": "unisc-a-0", "namespace": "lab", "labels": {"kueue.x-k8s.io/queue-name": "q"}}
    [replicated] = job_set["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 2
    spec = replicated["template"]["spec"]
    assert spec["completions"] == spec["parallelism"] == 4
    pod, env = spec["template"]["spec"], env_of(spec)
    assert pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == "4"
    assert (pod["nodeSelector"], pod["serviceAccountName"]) == ({"cloud.google.com/gke-tpu-topology": "4x4"}, "s")
    assert env["JAX_COORDINATOR_ADDRESS"] == "unisc-a-0-worker-$(WORKER_INDEX)-0.unisc-a-0:8476"
    assert (env["JAX_NUM_PROCESSES"], env["JAX_PLATFORMS"]) == ("4", "tpu,cpu")
    assert list(env).index("WORKER_INDEX") < list(env).index("JAX_COORDINATOR_ADDRESS")  # only earlier ones are expanded
    assert pod["containers"][0]["command"][0] == "python"  # these pods are one cluster, and JAX may know it


def test_the_profiles_that_come_along_need_nothing_but_an_image():
    for name, profile in read_profiles(PROFILES).items():
        if profile.kubernetes:
            found = manifest.manifest(Path("/s/a"), name="n", workers=2, profile=dataclasses.replace(profile, image="i"))
            (check_job if profile.hosts_per_worker == 1 else check_job_set)(found)
            assert name != "local"


def test_the_schemas_refuse_what_is_wrong():
    job = manifest.manifest(Path("/sweeps/a"), name="n", workers=1, profile=CPU)
    job["spec"]["complitions"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        check_job(job)
    job_set = manifest.manifest(Path("/sweeps/a"), name="n", workers=1, profile=SLICE)
    job_set["spec"]["replicatedJobs"][0]["replica"] = 1
    with pytest.raises(jsonschema.ValidationError):
        check_job_set(job_set)


def test_submitting_again_adds_workers_under_another_name(sweep):
    profile = dataclasses.replace(CPU, kubernetes={"claim": "c"})
    first, second = (manifest.submit(sweep.dir, workers=1, profile=profile)[0] for _ in range(2))
    names = {yaml.safe_load(Path(path).read_text())["metadata"]["name"] for path in (first, second)}
    assert len(names) == 2
    assert all(name.startswith("unisc-test-submitting-again-adds-") and len(name) <= 50 for name in names)
    mounts = yaml.safe_load(Path(first).read_text())["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert mounts == [{"name": "sweeps", "mountPath": str(sweep.dir.parent)}]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"image": ""}, r"^profile: has no image, which Kubernetes runs; give"),
        ({"kubernetes": {}}, r"^profile: has no kubernetes\.claim; name"),
        ({"kubernetes": {**TABLE, "clame": "x"}}, r"^profile: kubernetes\.clame is not known; give one of claim, mount"),
        ({"kubernetes": TABLE}, r"sweep: not below kubernetes\.mount /sweeps, so pods would not see it; put it there$"),
    ],
)
def test_a_profile_that_kubernetes_cannot_run_is_one_line(sweep, changes, line):
    with pytest.raises(InputError, match=line):
        manifest.submit(sweep.dir, workers=1, profile=dataclasses.replace(CPU, **changes))
    with pytest.raises(InputError, match=r"^workers: 0 is fewer than 1; "):
        manifest.submit(sweep.dir, workers=0, profile=CPU)
    assert not sweep.dir.exists()
