"""A job that counts the words of its payload."""

from scheduledjob import Task


async def word_count(task: Task) -> Task | None:
    """Count those longer than ``params.longerThan``. Return the task: go on; None: done for good; raise: retry."""
    if task.payload is None:
        raise ValueError("there is no payload: give the job one, spec.payload")
    longer_than = task.params.get("longerThan", 0)
    words = [word for word in task.payload.decode().split() if len(word) > longer_than]
    task.result = str(len(words)).encode()
    task.output = f"{len(words)} words\n".encode()
    return task
