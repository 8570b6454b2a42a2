"""A client that only schedules and reads, such as a web application beside the replicas that do the work.

    python examples/library/client.py postgresql://user@localhost/database

It claims nothing and does not need the code of the jobs: only the replicas have the kind "invoice" (see `replicas.py`).
It exits by itself.
"""

import asyncio
import sys
from datetime import UTC, datetime, timedelta

from scheduledjob import Scheduler, SlugTaken


async def main(url: str) -> None:
    async with Scheduler(url, execute=False) as client:
        await client.schedule_many(
            {"slug": f"invoice-{number}", "kind": "invoice", "delay": 0.0} for number in range(1, 11)
        )
        in_a_year = datetime.now(UTC) + timedelta(days=365)
        await client.schedule("reminder", "invoice", at=in_a_year)
        try:
            await client.schedule("reminder", "invoice", at=in_a_year)
        except SlugTaken as error:
            print(error)
        reminder = await client.get("reminder")
        assert reminder is not None
        print(f"{reminder.slug} is due on {reminder.slot:%Y-%m-%d}")
        print("deleted:", await client.delete("reminder"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name the store: python examples/library/client.py postgresql://user@localhost/database")
    asyncio.run(main(sys.argv[1]))
