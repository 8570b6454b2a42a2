"""What `helm test` runs: makes a ScheduledJob, waits for its success, and takes it away again.

In the operator's own image there is Python and nothing to call the API server with, so this is the little that it
takes. Exit code 0: the job has succeeded. Anything else is told in one line.
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


def ask(method, path, body=None):
    """The API server's answer; HTTPError where it refuses."""
    with open(f"{ACCOUNT}/token") as file:
        token = file.read().strip()
    request = urllib.request.Request(  # noqa: S310  # of the API server
        SERVER + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    trusted = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
    trusted.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13 asks of an authority what kubeadm does not write
    with urllib.request.urlopen(request, timeout=10, context=trusted) as answer:  # noqa: S310  # of the API server
        return json.load(answer)


def say(words):
    sys.stdout.write(words + "\n")


def remove():
    try:
        ask("DELETE", f"{JOBS}/{NAME}")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise


def wait():
    """The job's status once it has succeeded; TimeoutError with what was seen last."""
    ends = time.monotonic() + SECONDS
    status = {}
    while time.monotonic() < ends:
        status = ask("GET", f"{JOBS}/{NAME}").get("status") or {}
        if status.get("lastOutcome") == "Succeeded":
            return status
        time.sleep(0.5)
    if not status:
        raise TimeoutError("the operator has not seen it: look at its log, and at the namespaces that it watches")
    raise TimeoutError(f"its status is {json.dumps(status)}")


def main():
    try:
        remove()
        ask("POST", JOBS, JOB)
        say(f"made ScheduledJob {NAMESPACE}/{NAME}")
        try:
            newest = wait()["recentRuns"][0]
        finally:
            remove()
        say(f"it ran at {newest['started']} and succeeded; it is gone again")
    except urllib.error.HTTPError as error:
        sys.exit(f"the API server refused: {error.code} {error.read().decode(errors='replace')}")
    except TimeoutError as error:
        sys.exit(f"the ScheduledJob did not succeed within {SECONDS:g} seconds: {error}")
    except OSError as error:
        sys.exit(f"the API server does not answer: {error}")


main()
