"""Every error that a user can meet: who is at fault, what failed, why, and what to do next.

Guarantees: ``onlysum explain`` and the exit code follow from :data:`REGISTRY` alone; a code that is raised and missing
here is a bug that a test finds.
Leaves to others: the exceptions that carry a code (``privacy.errors``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Fault(IntEnum):
    """Who is at fault; the value is the exit code of the command."""

    BUG = 1
    USAGE = 2
    REFUSED = 3
    PEER = 4
    NETWORK = 5
    VERIFICATION = 6


@dataclass(frozen=True, slots=True)
class Explanation:
    """What ``onlysum explain`` prints about a code."""

    fault: Fault
    what: str
    why: str
    next_step: str


_U, _R, _P, _N, _V, _B = Fault.USAGE, Fault.REFUSED, Fault.PEER, Fault.NETWORK, Fault.VERIFICATION, Fault.BUG

REGISTRY: Final[dict[str, Explanation]] = {
    # this machine
    "E-BUG": Explanation(
        _B,
        "onlysum met a state that should not exist",
        "a bug",
        "tell us code, version and command; a traceback file lists places in the code and no values",
    ),
    "E-MASK-STREAM": Explanation(
        _B,
        "this machine computes a wrong mask stream",
        "the installed `cryptography` or the processor gives other bytes than the known answers",
        "nothing was sent; install the pinned version of `cryptography`, then run doctor",
    ),
    "E-RANDOM-REPEATED": Explanation(
        _B,
        "this machine's randomness repeats itself, so nothing was drawn from it",
        "a virtual machine was cloned or restored while it ran, or a process was forked; equal noise would cancel",
        "run the participant on one machine only, give that machine fresh entropy, then start the daemon again",
    ),
    "E-CONFIG-MISSING": Explanation(
        _U,
        "a configuration file or directory is missing",
        "init or join has not been run here, or --config is wrong",
        "run `onlysum coordinator init DIR` or `onlysum participant join TOKEN`, or pass --config DIR",
    ),
    "E-CONFIG-INVALID": Explanation(
        _U,
        "a configuration file does not parse or a value is out of range",
        "a typing error, or values that do not go together",
        "correct what is named",
    ),
    "E-CONFIG-UNKNOWN-KEY": Explanation(
        _U,
        "a configuration file has a key that onlysum does not know",
        "a typing error: a silent default could switch a protection off",
        "use the suggested key or remove the line",
    ),
    "E-PERMISSIONS": Explanation(
        _U,
        "a key file or directory is readable by others",
        "keys are 0600 and their directories 0700, or not used",
        "run the printed chmod",
    ),
    "E-EXTRA-MISSING": Explanation(
        _U,
        "a command needs packages that are not installed",
        "the base install has no torch, and nothing that makes PDF files or draws curves",
        "pip install 'onlysum[participant]', 'onlysum[report]' for PDF, registry exports and curves, 'onlysum[ray]', "
        "'onlysum[dashboard]', 'onlysum[postgres]', 'onlysum[s3]'",
    ),
    "E-DISK-FULL": Explanation(
        _U,
        "the disk is full",
        "what must survive a crash could not be written, so nothing was sent",
        "free space; the daemon goes on by itself",
    ),
    "E-DISK-READONLY": Explanation(
        _U,
        "the file system or the file is read-only",
        "it was mounted so, or the system made it so after errors of the disk",
        "mount it for writing, or name a directory that can be written; nothing was sent that relies on it",
    ),
    "E-DISK-FAILED": Explanation(
        _U,
        "a file or directory cannot be read or written",
        "the operating system refuses: rights, a path that is not there or a broken disk",
        "check the named path; nothing was sent that relies on it",
    ),
    "E-STATE-DAMAGED": Explanation(
        _V,
        "a file of this machine's state is damaged or missing",
        "it was cut, changed or removed; a chain of records does not verify",
        "do what is said here, or restore a backup; a participant abstains until then",
    ),
    "E-STATE-VERSION": Explanation(
        _U,
        "the directory was made by another version of onlysum",
        "plans, journals and reports changed their form; format 1 is that of 0.1, whose plans this version cannot run",
        "finish its runs and export the ledger with the version that made it; then init or join a new directory, and "
        "lower the budgets in its policy by what the export says was spent: the new ledger does not know it",
    ),
    "E-COORDINATOR-ROLLBACK": Explanation(
        _P,
        "the coordinator offers a round again that was completed",
        "it was restored from a backup, or it lies; participants hold the certificate, and promise nothing twice",
        "operator: restore a newer backup, or abort the run and create another; owners: nothing was charged or sent",
    ),
    "E-STATE-BUSY": Explanation(
        _U,
        "the database is in use",
        "another command, or another program that reads it, has held it for long",
        "stop the other program and retry; the daemon retries by itself",
    ),
    "E-LEASE-LOST": Explanation(
        _U,
        "another coordinator leads the run now",
        "this process hung, or was cut off from the database, for longer than its lease holds; nothing was written",
        "nothing: the other one goes on with the run; if it happens again, look at this machine's load and network",
    ),
    "E-REPLICA-AWAY": Explanation(
        _U,
        "another coordinator of this federation does not run",
        "it was stopped, hangs, is cut off from the database, or has another address in its own coordinator.toml",
        "look there: `onlysum coordinator status`; until it runs, nobody takes over if this one fails",
    ),
    "E-REPLICA-UNKNOWN": Explanation(
        _U,
        "a coordinator works on this database that this one does not know",
        "[replicas] in coordinator.toml does not name it, so members that join here are not told of it",
        "name its addresses under [replicas] and start this one again, or stop that one if it is none of yours",
    ),
    "E-REPLICA-TWICE": Explanation(
        _U,
        "two coordinators on this database have one address",
        "a directory was copied, and its coordinator.toml not changed; members reach one of the two",
        "give each its own addresses in coordinator.toml, and name those of the other one under [replicas]",
    ),
    "E-REPLICA-DIRECTORY": Explanation(
        _U,
        "the directory of runs and uploads is not one that all coordinators see",
        "[replicas] directory names another one there, a copy, or a mount that is missing on one of the machines",
        "mount the same directory on each machine; after that ask again, a minute later on a network file system",
    ),
    "E-REPLICA-CLOCK": Explanation(
        _U,
        "a coordinator's clock differs from the database's by more than a lease holds",
        "one of them is wrong: after a takeover phases would end too early or too late, and so would certificates",
        "set the wrong clock right, and keep all of them by NTP",
    ),
    "E-CERTIFICATE": Explanation(
        _U,
        "this machine's own certificate is not valid now, so nothing was started",
        "it has expired, or this machine's clock is wrong",
        "set the clock right; of a member whose certificate has expired, the operator runs `coordinator invite NAME "
        "--again`, and the member `participant renew -` with that line",
    ),
    "E-CLOCK": Explanation(
        _U,
        "this machine's clock and the coordinator's differ",
        "one of them is wrong: plans, invitations and certificates would end too early or too late",
        "compare both with the time, and set the wrong one right",
    ),
    "E-DATABASE-NEWER": Explanation(
        _U,
        "the database was upgraded by a newer version of onlysum",
        "this program is older than the one that ran last, and schemas are not brought back",
        "install that version or a later one; or restore a backup that was made before the upgrade",
    ),
    "E-DATABASE-AWAY": Explanation(
        _N,
        "the database server does not answer, or lets this user do nothing",
        "it restarts or is stopped, the network is cut, or URL, role, password or rights are wrong",
        "start it, or correct what it says; nothing is lost, and a running daemon goes on as soon as it answers",
    ),
    "E-STORAGE-AWAY": Explanation(
        _N,
        "the storage for uploads and adapters does not answer, or lets this user do nothing",
        "it is stopped or overloaded, the network is cut, or URL, region, keys or rights are wrong",
        "start it, or correct what it says; nothing is lost, and a running daemon goes on as soon as it answers",
    ),
    "E-STORAGE-DAMAGED": Explanation(
        _V,
        "what the storage has under a name is not what was put there",
        "it was changed, cut or removed; nothing that was read of it is used",
        "look who else writes to the bucket, and bring the named version back or remove it: an attempt is tried again, "
        "and a run whose adapter is lost is aborted or restored from a backup",
    ),
    "E-EXISTS": Explanation(
        _U,
        "already exists",
        "nothing is overwritten, and nothing is decided twice",
        "keep it as it is, or choose another name",
    ),
    "E-RUNNING": Explanation(
        _U,
        "a daemon already runs in this directory",
        "two daemons would double-spend the budget and sign conflicting messages",
        "stop the other one first, or pass another --config DIR",
    ),
    "E-PORT": Explanation(
        _U,
        "an address cannot be listened on",
        "another program uses the port, or the address is not this machine's",
        "stop that program, or change the address in coordinator.toml",
    ),
    "E-NOT-FOUND": Explanation(_U, "not found", "the name is not known here", "list what there is and try again"),
    "E-USAGE": Explanation(
        _U,
        "the command does not fit",
        "a typing error, or not possible in the state that is named",
        "change the command as it says; see --help",
    ),
    # enrolment and identity
    "E-TOKEN-EXPIRED": Explanation(
        _P, "the invitation has expired", "tokens live for a limited time", "ask the operator for a new invitation"
    ),
    "E-TOKEN-USED": Explanation(
        _P,
        "the invitation was used before",
        "tokens work once",
        "if it was not you, tell the operator at once; otherwise ask for a new invitation",
    ),
    "E-TOKEN-UNKNOWN": Explanation(
        _P,
        "the coordinator does not know this invitation",
        "mistyped, revoked, or for another coordinator",
        "check that the whole token was copied, or ask for a new one",
    ),
    "E-TOKEN-INVALID": Explanation(_U, "the token does not parse", "it was cut or changed", "copy the whole token"),
    "E-IDENTITY-KEY": Explanation(
        _P,
        "an identity key is unusable",
        "a small-order or repeated key verifies more than its owner signed",
        "the member enrols again with a fresh key",
    ),
    "E-IDENTITY-MISMATCH": Explanation(
        _P,
        "the caller is not who its message says",
        "certificate name, message and roster must agree",
        "check which configuration directory the daemon uses",
    ),
    "E-IDENTITY-DIFFERS": Explanation(
        _V,
        "two fingerprints that should be the same differ",
        "a digit was misheard, or somebody stands in for the member",
        "read all digits to each other again; if they still differ, approve nothing with this member, and ask why",
    ),
    "E-MEMBER-UNKNOWN": Explanation(
        _P, "no such member", "the name is not enrolled with this coordinator", "see `onlysum coordinator member list`"
    ),
    "E-MEMBER-REVOKED": Explanation(
        _P,
        "the member's key was revoked, or another certificate of it is in use",
        "an operator revoked it, or the directory is an older copy: its certificate was renewed since",
        "ask the operator, who invites anew, or once more (`coordinator invite NAME --again`)",
    ),
    "E-MEMBER-LEFT": Explanation(
        _P,
        "a member has left the federation",
        "its owner said so, signed by its identity key; runs that need it have ended",
        "create a run without it, or invite it again",
    ),
    # network
    "E-NET-DNS": Explanation(_N, "the coordinator's name does not resolve", "DNS", "check the address in the token"),
    "E-NET-REFUSED": Explanation(
        _N,
        "the coordinator does not answer",
        "it is not running, or a firewall is in between",
        "check `onlysum coordinator status`; the daemon keeps trying",
    ),
    "E-NET-PROXY": Explanation(
        _N,
        "the proxy does not open the way to the coordinator",
        "it is not running, wants another login, or does not allow the address; the coordinator was not asked",
        "correct `proxy` in participant.toml, or ask IT; the daemon keeps trying",
    ),
    "E-NET-TLS": Explanation(
        _N,
        "TLS failed",
        "a certificate is not from the pinned authority or not valid now, a clock is wrong, or a proxy intercepts TLS",
        "check this machine's clock, then the fingerprint with the operator; ask IT to exempt the address",
    ),
    "E-NET-TIMEOUT": Explanation(
        _N, "the coordinator answered too late", "a slow or broken link", "the daemon retries"
    ),
    "E-NET-LOST": Explanation(_N, "the connection broke", "a restart or a broken link", "the daemon retries"),
    "E-NET-FAILED": Explanation(
        _N,
        "the coordinator met an error of its own",
        "a bug or a full disk there",
        "the operator finds it in the coordinator's log; the daemon retries",
    ),
    "E-NET-BUSY": Explanation(
        _N,
        "the coordinator takes no more calls of this member for now",
        "a member has a share of the coordinator's connections, memory and handshakes",
        "the daemon retries; if it goes on, look for a second daemon with the same identity",
    ),
    "E-NET-ELSEWHERE": Explanation(
        _N,
        "another coordinator leads this member's runs",
        "several coordinators serve the federation, and each run is led by one of them at a time",
        "nothing: the daemon dials the other one",
    ),
    "E-NET-TWICE": Explanation(
        _N,
        "two daemons with one identity are connected",
        "a participant's directory was copied, and both copies run: they would spend the budget twice",
        "stop one of them, on whichever machine it runs; a minute and a half later the other goes on by itself",
    ),
    "E-VERSION": Explanation(
        _P,
        "the two sides speak different protocol versions",
        "one side was upgraded first",
        "upgrade the side with the lower version",
    ),
    # the wire
    "E-WIRE-MALFORMED": Explanation(
        _P,
        "a message does not parse",
        "a field is missing, too long, repeated or unknown",
        "the sender is refused and the round goes on; upgrade it or look for tampering",
    ),
    "E-WIRE-CHUNK": Explanation(
        _P,
        "a chunk is wrong",
        "its offset, length or hash does not fit what was announced",
        "the upload is refused; the sender may resume from the offset that the answer names",
    ),
    "E-WIRE-UNEXPECTED": Explanation(
        _P, "a message came in the wrong phase", "late, repeated or out of order", "nothing; the round goes on"
    ),
    # plan
    "E-PLAN-MALFORMED": Explanation(
        _P,
        "a plan does not parse",
        "an unknown field, a float, or a form that is not canonical",
        "build it with `onlysum plan build` and `coordinator run create`",
    ),
    "E-PLAN-SIGNATURE": Explanation(
        _P,
        "the plan's signature is not the pinned operator's",
        "changed on the way, or another operator",
        "compare the operator's fingerprint by telephone",
    ),
    "E-PLAN-RULE": Explanation(
        _P,
        "the plan breaks a rule of the protocol",
        "its numbers would void the claim",
        "build it again",
    ),
    "E-PLAN-RING": Explanation(
        _P,
        "the ring is too small for the sum",
        "the sum could wrap",
        "use more bits, a smaller clamp or fewer participants",
    ),
    "E-PLAN-EXPIRED": Explanation(
        _R, "the plan has expired", "its expiry has passed", "ask the operator for a new run"
    ),
    "E-PLAN-CHANGED": Explanation(
        _P,
        "the run id came back with another plan",
        "a plan is immutable once seen",
        "refuse the run; ask the operator why",
    ),
    "E-PLAN-NOISE": Explanation(
        _P,
        "the plan's noise or sensitivity is outside what is proved",
        "sigma must be a power of two of at least 8 and D^2 must exceed d/12 + 4D",
        "build and calibrate it again",
    ),
    "E-PLAN-CLAIM": Explanation(
        _P,
        "the plan spends more than it claims",
        "its noise, sensitivity, sampling and rounds give a larger epsilon than the one that it names",
        "calibrate it again with `onlysum coordinator run create`",
    ),
    "E-PLAN-UNSOUND": Explanation(
        _U,
        "the recipe asks for something that no accounting covers",
        "an example would depend on others, or private data would leave without clip and noise",
        "remove the line; docs/privacy-accounting.md section 2 has the hypotheses",
    ),
    "E-PLAN-STREAM": Explanation(
        _P,
        "the plan sums something that its method does not",
        "what is summed beside the method's own streams, a loss or a count, would leave without clip and noise",
        "build it with `onlysum plan build`; measure on public data, at an evaluator",
    ),
    "E-METHOD-UNKNOWN": Explanation(_U, "no such method", "a typing error", "see `onlysum method list`"),
    "E-METHOD-REFUSED": Explanation(
        _U,
        "the method cannot run like this",
        "it needs individual updates, or the mode leaves something un-noised",
        "choose a method or mode that the message names",
    ),
    # policy, budget, consent
    "E-POLICY-RULE": Explanation(
        _R,
        "the plan does not fit the owner's policy",
        "the named rule of policy.toml refused it",
        "agree with the operator on another plan, or change the policy",
    ),
    "E-POLICY-BUDGET": Explanation(
        _R,
        "the remaining budget does not cover the run",
        "earlier runs spent it, and nothing is refunded; or approved runs reserve the rest of their price",
        "see `onlysum participant ledger show`; ask for fewer rounds or more noise",
    ),
    "E-POLICY-WAITING": Explanation(
        _R,
        "the plan waits for a person, or for other runs",
        "policy asks for approval by hand, or approved runs reserve the budget that it needs",
        "`onlysum participant plan show PLAN`, then approve or refuse",
    ),
    "E-POLICY-REFUSED": Explanation(_R, "the owner refused the plan", "a person said no", "talk to the owner"),
    "E-LEDGER-ROLLBACK": Explanation(
        _R,
        "the ledger or journal is older than what others have seen",
        "a backup was restored or a disk rolled back",
        "restore the newest copy, or charge what is missing in the directory of the member that showed it: "
        "`onlysum participant ledger reanchor`",
    ),
    "E-LEDGER-PEER": Explanation(
        _P,
        "another member's ledger is older than this participant has seen it",
        "its owner restored a backup, and the coordinator did not notice it or keeps it back",
        "nothing was sent to it in this attempt; tell the operator and that owner, by another way than this program",
    ),
    "E-LEDGER-UNIT": Explanation(
        _R, "the population's budget is kept in another unit of privacy", "units cannot be added", "use the same unit"
    ),
    "E-LEDGER-POPULATION": Explanation(
        _R,
        "the run was charged to another population before",
        "a population was renamed in policy.toml in the middle of a run, or the dataset was given another one",
        "name the first population again: a run is charged to one population from its first round to its last",
    ),
    "E-LEDGER-DATA": Explanation(
        _R,
        "the data was charged to another population before",
        "a population was renamed in policy.toml, or the data registered again: its people would have two budgets",
        "name the first population again, or register the data with --another-population if it is also others' data",
    ),
    # base model, data, training
    "E-MODEL-HASH": Explanation(
        _U,
        "the base model's files are not the plan's",
        "other weights, config or tokenizer",
        "add the model the plan names",
    ),
    "E-MODEL-PICKLE": Explanation(
        _U, "the model has pickled weights", "a pickle runs code when it is loaded", "convert it to safetensors"
    ),
    "E-MODEL-LOAD": Explanation(
        _U, "the base model does not load", "files are missing or damaged, or need remote code", "see the named file"
    ),
    "E-ADAPTER-HASH": Explanation(
        _P,
        "the initial adapter is not the plan's",
        "it was changed or cut on the way",
        "nothing was trained; the daemon downloads it again, and if it stays so the operator makes a new run",
    ),
    "E-DATA-PARSE": Explanation(
        _U, "the dataset does not parse", "the named row or file is not in the declared format", "correct the named row"
    ),
    "E-DATA-MISMATCH": Explanation(
        _U, "the dataset does not fit the plan's task", "columns, labels or sizes differ", "add a dataset that fits"
    ),
    "E-DATA-CHANGED": Explanation(
        _U,
        "the dataset is not what was registered",
        "its files were changed after `dataset add`",
        "`onlysum participant dataset test NAME`; then remove it and add it again, or restore the files",
    ),
    "E-DATA-POPULATION": Explanation(
        _U,
        "the same data is registered under another population",
        "one budget protects its people, and a second population would give them a second one",
        "give --population as it was given before; --another-population registers it all the same",
    ),
    "E-DATA-LEDGER": Explanation(
        _U,
        "the same data belongs to another ledger of this machine",
        "what two ledgers spend, nobody adds up: of a federation one participant charges to a ledger",
        "leave this data to the member that has it; --another-population gives its people a second budget",
    ),
    "E-DATA-USER": Explanation(
        _U, "a row has no user id", "user-level privacy needs one for every row", "correct the named row"
    ),
    "E-SELF-CHECK": Explanation(
        _B,
        "the self-check failed, so nothing was trained and nothing charged",
        "per-example gradients, sensitivity or reloading is not exact for this model and method",
        "use another method or model; report the printed check",
    ),
    "E-TRAINING": Explanation(
        _B,
        "a step of training failed; in a round its noise leaves without it, so that nobody learns that it failed",
        "the device ran out of memory or broke down, or a bug; a round is charged all the same",
        "run `onlysum participant plan dry-run`; take a smaller `threads` or another `device`; pause if it goes on",
    ),
    "E-DEVICE": Explanation(
        _U,
        "the device is not there, or does not compute in that precision",
        "participant.toml asks for it",
        "use device `cpu` or `auto`, precision `float32`",
    ),
    # the protocol: rules that PeerError names
    "E-ROUND-CONTEXT": Explanation(
        _P,
        "a message belongs to another plan, round, attempt, model or history",
        "a replay, or different participants were shown different things",
        "the round ends here; report it to the other owners",
    ),
    "E-ROUND-SIGNATURE": Explanation(_P, "a signature does not verify", "forged or damaged", "the sender is refused"),
    "E-ROUND-SET": Explanation(
        _P,
        "a participant set is not sorted, unique, known or large enough",
        "a small or strange set isolates an update",
        "nothing was sent; report it to the other owners",
    ),
    "E-ROUND-KEYS": Explanation(
        _P, "a key is low-order or repeated", "such a key gives predictable masks", "the sender is refused"
    ),
    "E-ROUND-SHARE": Explanation(
        _P,
        "a share does not open or does not match its hash",
        "a lying dealer or holder, who is named; or a false complaint, which nothing tells from a true one",
        "the round is tried again without it, and after a complaint without either side",
    ),
    "E-ROUND-UPLOAD": Explanation(
        _P, "an upload does not match its receipt", "length or hash differ", "the sender is refused"
    ),
    "E-ROUND-COMMITTED": Explanation(
        _P,
        "a second survivor set or release was asked in one round",
        "two sums of one round would reveal their difference",
        "nothing was sent; report it to the other owners",
    ),
    "E-ROUND-QUORUM": Explanation(
        _P, "too few participants signed the survivors", "less than the plan's quorum", "nothing was sent"
    ),
    "E-ROUND-PHASE": Explanation(_P, "a message does not belong to this phase", "out of order", "nothing was changed"),
    "E-ROUND-TRANSCRIPT": Explanation(
        _P, "the history of the run does not verify", "a split view, or a rolled back journal", "the run is refused"
    ),
    "E-ROUND-TOO-FEW": Explanation(
        _P, "too few participants remain", "below min_survivors", "the round is tried again up to max_attempts"
    ),
    "E-ROUND-RESTART": Explanation(
        _P,
        "an attempt was lost because a participant restarted in it",
        "before its masked update is on disk, a participant's keys of an attempt are in memory alone",
        "the round is tried again; such attempts count only towards the plan's max_attempts",
    ),
    "E-ROUND-DEADLINE": Explanation(
        _P,
        "a phase ended before enough participants answered",
        "slow or lost participants",
        "the round is tried again; raise the durations if links are slow",
    ),
    "E-ROUND-STEP": Explanation(
        _P,
        "a round is offered from an adapter that the sums of the rounds before do not lead to",
        "the coordinator runs another program or changed the adapter, or it did not send the sums",
        "nothing is sent in this round; report it to the other owners, and ask the operator for both versions",
    ),
    "E-ROUND-SUM": Explanation(
        _P,
        "the sum is larger than updates of this plan can sum to",
        "a participant uploaded something else than an update; masks hide which one",
        "the round is voided, or the run ends with the adapter before it; ask the owners what their daemons did",
    ),
    "E-ROUND-VOID": Explanation(
        _P,
        "a round cannot be given up without a sum here",
        "without noise, two sums that start from one adapter can differ by one participant's update",
        "nothing was sent; the run ends instead, and can be created anew",
    ),
    "E-RUN-ENDED": Explanation(
        _R,
        "the operator ended the run",
        "`onlysum coordinator run abort` was called; completed rounds stay as they are, and charged",
        "ask the operator why; see `onlysum coordinator run show RUN` there",
    ),
    "E-RUN-FAILED": Explanation(
        _P,
        "the run ended before its last round",
        "its rounds could not be completed",
        "see `onlysum coordinator run show RUN`",
    ),
    "E-DEMO": Explanation(
        _B,
        "the demo did not come to its end",
        "one of its processes failed or was too slow",
        "read the logs that it names; every process was ended",
    ),
    "E-SIMULATION-PARTITION": Explanation(
        _U,
        "a partition leaves a participant without data",
        "somebody without a row has nothing to train on, and a roster has no such member",
        "take fewer participants, a larger alpha, a smaller skew or another seed",
    ),
    "E-SIMULATION-OTHER": Explanation(
        _R,
        "the directory or manifest is of another simulation",
        "results of another SPEC, other data or other code must not be mixed; what is there stays as it is",
        "choose another --out, or go back to what the results were made with",
    ),
    "E-SIMULATION-DIFFERS": Explanation(
        _V,
        "the simulation does not repeat what its manifest says",
        "code, libraries or processor compute something else than when it was made",
        "compare what the warnings name; the same code on the same kind of machine repeats to the bit",
    ),
    "E-SIMULATION-CLUSTER": Explanation(
        _U,
        "the Ray cluster cannot train this",
        "it does not answer, or a machine of it lacks the base or the rows under the same path",
        "start the cluster, and put base and rows where the message says, the same bytes on every machine",
    ),
    "E-RUN-SIZES": Explanation(
        _U,
        "a member has not announced the dataset that the plan asks for",
        "its daemon has not connected yet, or it registered no dataset of that name",
        "there: `onlysum participant dataset add NAME PATH` and `onlysum participant start`; then create the run again",
    ),
    "E-RUN-TOLERANCE": Explanation(
        _U,
        "no plan over these members withstands what was asked for",
        "colluders, dropouts, the graph and the size of the roster do not fit together",
        "change the option that the message names; docs/graphs.md section 9 has a table",
    ),
    # pages
    "E-LOGIN": Explanation(
        _R,
        "the name or the password is wrong",
        "they are not those of a user of this dashboard",
        "try again; `onlysum coordinator user list` names the users, `user remove` and `user add` set a new password",
    ),
    "E-LOGIN-LOCKED": Explanation(
        _R,
        "this name cannot log in for a while",
        "its password was wrong again and again",
        "wait; if it was not you, read the security log",
    ),
    "E-LOGIN-ROLE": Explanation(
        _R, "an auditor changes nothing", "the button is an operator's", "ask an operator, or log in as one"
    ),
    "E-WEB-ORIGIN": Explanation(
        _R,
        "the request does not come from this page",
        "another site sent it, the login has ended, or the address is not the configured one",
        "open the page anew under its own address; behind a proxy set `origin` under [admin] of coordinator.toml",
    ),
    "E-WEB-FORM": Explanation(
        _R, "the form is none of this page's", "it is too large, too slow or malformed", "open the page anew"
    ),
    # reports
    "E-REPORT-MALFORMED": Explanation(_V, "the report does not parse", "changed or cut", "ask for the original file"),
    "E-REPORT-SIGNATURE": Explanation(
        _V, "the report's signature does not verify", "a byte was changed, or another key signed", "do not trust it"
    ),
    "E-REPORT-RECOMPUTE": Explanation(
        _V,
        "a figure in the report does not follow from its events",
        "it was computed wrongly or changed",
        "do not trust it",
    ),
    "E-REPORT-LEDGER": Explanation(
        _V,
        "the exported ledger does not verify",
        "a byte was changed, a record was added or taken out, or the file was cut",
        "do not trust it; ask its owner to export the ledger again",
    ),
    "E-REPORT-KEY": Explanation(
        _V,
        "the report or ledger was signed by another key than expected",
        "another daemon made it, or it is not what it says",
        "ask the signer for its fingerprint by telephone and pass it with --key",
    ),
    "E-REPORT-PLAN": Explanation(
        _V,
        "the plan inside the report is not the one that the operator signed",
        "hash, signature or a field that repeats the plan differs",
        "do not trust it",
    ),
    "E-REPORT-TRANSCRIPT": Explanation(
        _V,
        "the rounds in the report do not form one history",
        "a certificate lacks its quorum, or does not follow from the round before",
        "do not trust it; compare with the report of another participant",
    ),
    "E-REPORT-EVALUATION": Explanation(
        _V,
        "a measurement in the report is not signed by the plan's evaluator",
        "it was changed, or somebody else made it",
        "do not trust its figures",
    ),
    "E-AUDIT-FAILED": Explanation(
        _V,
        "the empirical audit contradicts the claim",
        "noise, clip, sampling or plan are not what the accounting counts on",
        "do not train with this installation; the named check says where to look",
    ),
    "E-REPORT-NO-CLAIM": Explanation(
        _R,
        "there is nothing to register",
        "the registry lists deployments of differential privacy, and this run makes no such claim",
        "export it as html or pdf",
    ),
    "E-ACCOUNTANT-DISAGREE": Explanation(
        _B,
        "the accountants contradict each other",
        "PLD exceeds a valid upper bound",
        "report it as a bug; no report is made",
    ),
}
