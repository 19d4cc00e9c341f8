"""Flower's half of ``bench.flower``: SecAgg+ with its own client mod and workflow, timed, in Flower's environment.

Reads one JSON case per line from its input and prints one line of figures for each. Guarantees: the workflow's stages
and ``secaggplus_mod`` are the installed package's own; training, copies that stand for the network and the strategy's
averaging are in neither side's time; the result is compared with the mean of the survivors' updates.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Stage
from flwr.common.secure_aggregation.secaggplus_constants import Key as Field
from flwr.compat.common import recorddict_compat as compat
from flwr.server import LegacyContext, SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.supercore.task_identity import TaskIdentity

VALUE_RANGE = 8.0  # the workflow's default clipping range


class OnlyTheSum(FedAvg):  # type: ignore[misc]  # Flower is not installed where types are checked
    """A strategy that costs nothing: everybody is sampled, and the workflow's result is taken as it is."""

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[tuple[Any, Any]]:
        """Ask every client."""
        return [(proxy, FitIns(parameters, {})) for proxy in client_manager.all().values()]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> tuple[Any, dict[str, Any]]:
        """Take what the workflow has put into every result."""
        return results[0][1].parameters, {}


class Clients:
    """All clients, in the place of the network: the workflow's ``Grid``."""

    def __init__(self, participants: int, entries: int, dropouts: int) -> None:
        ids = range(1, participants + 1)
        self.contexts = {nid: Context(1, nid, {}, RecordDict(), {}) for nid in ids}
        self.seconds = dict.fromkeys(ids, 0.0)
        self.uploaded = dict.fromkeys(ids, 0)
        self.dropped = {1 + (2 * i + 1) * participants // (2 * dropouts) for i in range(dropouts)}
        self.entries = entries
        self.outside = 0.0  # processor time that is not the coordinator's
        self.total = np.zeros(entries)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        """Answer each message as its client does."""
        before = time.process_time()
        replies = [self._answer(message) for message in messages]
        self.outside += time.process_time() - before
        return replies

    def _answer(self, message: Any) -> Any:
        nid = message.metadata.dst_node_id
        stage = message.content.config_records[RECORD_KEY_CONFIGS][Field.STAGE]
        if stage == Stage.COLLECT_MASKED_VECTORS and nid in self.dropped:
            return Message(Error(code=1), reply_to=message)
        sent = Message(metadata=copy.deepcopy(message.metadata), content=copy.deepcopy(message.content))
        trained = 0.0

        def train(request: Any, _: Any) -> Any:
            nonlocal trained
            started = time.process_time()
            made = Message(self._update(nid), reply_to=request)
            trained = time.process_time() - started
            return made

        before = time.process_time()
        reply = secaggplus_mod(sent, self.contexts[nid], train)
        self.seconds[nid] += time.process_time() - before - trained
        self.uploaded[nid] += sum(_size(record) for record in reply.content.config_records[RECORD_KEY_CONFIGS].values())
        return reply

    def _update(self, nid: int) -> Any:
        values = np.random.default_rng(nid).uniform(-VALUE_RANGE, VALUE_RANGE, self.entries).astype(np.float32)
        self.total += values
        fitted = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([values]), 1, {})
        return compat.fitres_to_recorddict(fitted, False)


def _size(value: Any) -> int:
    """Return the bytes of a record's value, without any framing."""
    if isinstance(value, list):
        return sum(_size(part) for part in value)
    return len(value) if isinstance(value, bytes) else 8


def measure(participants: int, entries: int, dropouts: int, threshold: int) -> dict[str, float]:
    """Run one round; return milliseconds of the median client and of the coordinator, and bytes uploaded."""
    clients, manager = Clients(participants, entries, dropouts), SimpleClientManager()
    for nid in clients.contexts:
        manager.register(GridClientProxy(nid, clients, 1))
    nothing = compat.parameters_to_arrayrecord(ndarrays_to_parameters([np.zeros(1, np.float32)]), False)
    state = RecordDict({MAIN_CONFIGS_RECORD: ConfigRecord({Key.CURRENT_ROUND: 1}), MAIN_PARAMS_RECORD: nothing})
    context = LegacyContext(Context(1, 0, {}, state, {}), strategy=OnlyTheSum(), client_manager=manager)
    workflow = SecAggPlusWorkflow(1.0, threshold, max_weight=1.0)
    before = time.process_time()
    workflow(clients, context)
    coordinator = time.process_time() - before - clients.outside
    survivors = [nid for nid in clients.contexts if nid not in clients.dropped]
    (mean,) = parameters_to_ndarrays(
        compat.arrayrecord_to_parameters(context.state.array_records[MAIN_PARAMS_RECORD], True)
    )
    assert np.allclose(mean, clients.total / len(survivors), atol=1e-4)
    return {
        "client_ms": 1e3 * median(clients.seconds[nid] for nid in survivors),
        "coordinator_ms": 1e3 * coordinator,
        "bytes_per_entry": median(clients.uploaded[nid] for nid in survivors) / entries,
    }


def main() -> None:
    """Answer cases until the input ends."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # what Flower's launcher sets
    print(json.dumps({"flwr": version("flwr")}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
