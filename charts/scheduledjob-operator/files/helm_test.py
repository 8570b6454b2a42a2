"""The program of `helm test`: create a ScheduledJob, wait until it has succeeded, and delete it.

The operator's image contains Python but no client for the API server, so this program uses only the standard library.
Exit code 0 means that the job has succeeded. Any failure is reported in one line.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

ACCOUNT = os.environ.get("TEST_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount")
SERVER = os.environ.get("TEST_SERVER") or (
    f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
)
NAMESPACE = os.environ["TEST_NAMESPACE"]
NAME = os.environ["TEST_NAME"]
SECONDS = float(os.environ["TEST_SECONDS"])
JOBS = f"/apis/scheduledjobs.dev/v1beta1/namespaces/{NAMESPACE}/scheduledjobs"

JOB = {
    "apiVersion": "scheduledjobs.dev/v1beta1",
    "kind": "ScheduledJob",
    "metadata": {"name": NAME},
    "spec": {
        "triggers": [{"after": "1s"}],
        "job": {"custom": {"kind": "print", "params": {"text": "the operator runs jobs"}}},
        "retry": {"maxRetries": 0},
    },
}


def request_api(method, path, body=None):
    """Send a request to the API server and return its answer. HTTPError: it refused."""
    with open(f"{ACCOUNT}/token") as file:
        token = file.read().strip()
    request = urllib.request.Request(  # noqa: S310  # the URL is the API server's
        SERVER + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    trusted = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
    trusted.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13 requires fields that kubeadm's CA certificate lacks
    with urllib.request.urlopen(request, timeout=10, context=trusted) as answer:  # noqa: S310  # as above
        return json.load(answer)


def say(words):
    sys.stdout.write(words + "\n")


def remove():
    try:
        request_api("DELETE", f"{JOBS}/{NAME}")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise


def wait():
    """Return the job's status once it has succeeded. TimeoutError: it has not; the message contains the last status."""
    deadline = time.monotonic() + SECONDS
    status = {}
    while time.monotonic() < deadline:
        status = request_api("GET", f"{JOBS}/{NAME}").get("status") or {}
        if status.get("lastOutcome") == "Succeeded":
            return status
        time.sleep(0.5)
    if not status:
        raise TimeoutError("the operator has not seen it: check the operator's log and its setting namespaces")
    raise TimeoutError(f"its status is {json.dumps(status)}")


def main():
    try:
        remove()
        request_api("POST", JOBS, JOB)
        say(f"created ScheduledJob {NAMESPACE}/{NAME}")
        try:
            newest = wait()["recentRuns"][0]
        finally:
            remove()
        say(f"it ran at {newest['started']} and succeeded; deleted it")
    except urllib.error.HTTPError as error:
        sys.exit(f"the API server refused: {error.code} {error.read().decode(errors='replace')}")
    except TimeoutError as error:
        sys.exit(f"the ScheduledJob did not succeed within {SECONDS:g} seconds: {error}")
    except OSError as error:
        sys.exit(f"the API server does not answer: {error}")


main()
