"""The join written with Quix Streams, exactly once: `python quix_join.py SERVERS PREFIX GROUP FOLDER CHECKPOINT`.

Runs in an environment of its own (`quix.lock`: its pydantic-settings is older than ours). The state of an image is one
value of its store, kept in RocksDB in FOLDER and in a changelog topic. A checkpoint every CHECKPOINT records: seen from
outside, its pace is known from commit to commit.
"""

from __future__ import annotations

import sys
from typing import Any

from plain_join import taken  # it lies beside this script
from quixstreams import Application, State


def joined(event: dict[str, Any], state: State) -> dict[str, Any] | None:
    """The outcome, where this was the image's last event."""
    name = event["run"]
    held, outcome = taken(state.get(name), event)
    if outcome is None:
        state.set(name, held)
    else:
        state.delete(name)
    return outcome


def main() -> None:
    servers, prefix, group, folder, checkpoint = sys.argv[1:]
    app = Application(
        broker_address=servers,
        consumer_group=group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_every=int(checkpoint),
        state_dir=folder,
        auto_create_topics=True,
        loglevel="WARNING",
    )
    inputs = [app.topic(prefix + name, value_deserializer="json") for name in ("detections", "reconstructions")]
    output = app.topic(f"{prefix}completed-images", value_serializer="json")
    both = app.dataframe(inputs[0]).concat(app.dataframe(inputs[1]))
    both.apply(joined, stateful=True).filter(lambda outcome: outcome is not None).to_topic(output)
    app.run()


if __name__ == "__main__":
    main()
