"""A job that counts the words of its payload."""

from scheduledjob import Task


async def word_count(task: Task) -> Task | None:
    """Count the words that are longer than ``params.longerThan``.

    A job returns the task to continue its schedule, returns None to complete it, and raises an exception to be retried.
    """
    if task.payload is None:
        raise ValueError("there is no payload: set spec.payload")
    longer_than = task.params.get("longerThan", 0)
    words = [word for word in task.payload.decode().split() if len(word) > longer_than]
    task.result = str(len(words)).encode()
    task.output = f"{len(words)} words\n".encode()
    return task
