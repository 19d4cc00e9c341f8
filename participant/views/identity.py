"""This participant's certificate and its federation's authority: until when they count, and what the policy pins."""

from __future__ import annotations

from dataclasses import dataclass

from host.certificates import expires_at, invalid_now, renewal_due, renewal_overdue
from host.fingerprints import fingerprint
from host.rendering import Json, moment, timestamp
from participant.link.identity import Predecessor
from participant.opened import OpenHome
from participant.owner.policy import load_policy
from privacy.errors import OnlysumError

INVITED_AGAIN = "ask the operator for `onlysum coordinator invite {name} --again`, then: onlysum participant renew -"


@dataclass(frozen=True, slots=True)
class IdentityView:
    """What an owner should know of its own certificate and of the authority."""

    name: str
    certificate_until: int
    renewed_from: int  # when the daemon renews it
    trouble: str  # why somebody must look, empty if nobody must
    authority: str  # fingerprint
    authority_until: int
    before: tuple[tuple[str, int], ...]  # fingerprints of authorities that still count, and until when
    policy_line: str  # what the policy should have in place of what it pins; empty if that is the present authority
    follows: bool  # what the policy pins named the present authority as its successor

    def to_json(self) -> Json:
        """Return it for programs."""
        return {
            "certificate_until": timestamp(self.certificate_until),
            "renewed_from": timestamp(self.renewed_from),
            "trouble": self.trouble,
            "authority": self.authority,
            "authority_until": timestamp(self.authority_until),
            "authorities_before": {known: timestamp(until) for known, until in self.before},
            "policy_line": self.policy_line,
        }

    def to_lines(self) -> list[str]:
        """Return it for people."""
        until = f"certificate until {moment(self.certificate_until)} UTC"
        lines = [f"  {until}, renewed by the daemon from {moment(self.renewed_from)} UTC on"]
        if self.trouble:
            lines = [f"  {until}: {self.trouble}"]
        lines += [f"  the authority before, {known}, counts until {moment(end)} UTC" for known, end in self.before]
        return lines + [f"  {line}" for line in self.policy_lines()]

    def policy_lines(self) -> list[str]:
        """Return what the policy should say of the authority, where it says something else."""
        if not self.policy_line:
            return []
        now = "that one named its successor, so plans go on being judged" if self.follows else "every plan is refused"
        return [
            f"policy.toml pins another authority than the federation has now: {now}. Compare with the operator by",
            f"telephone, then put into [coordinator]: {self.policy_line}",
        ]


def identity_view(opened: OpenHome, now: float | None = None) -> IdentityView:
    """Read it; the policy may not parse, then nothing is said of it."""
    from host.system import SystemClock

    at = SystemClock().now() if now is None else now
    identity = opened.identity
    follows, line = _policy(opened)
    return IdentityView(
        name=identity.name,
        certificate_until=expires_at(identity.certificate),
        renewed_from=renewal_due(identity.certificate),
        trouble=certificate_trouble(identity.certificate, identity.name, at),
        authority=fingerprint(identity.authority_der),
        authority_until=expires_at(identity.authority),
        before=tuple((_shown(one), one.ends) for one in identity.before if at < one.ends),
        policy_line=line,
        follows=follows,
    )


def certificate_trouble(certificate: bytes, name: str, now: float) -> str:
    """Return why somebody must look after a member's certificate (PEM), with the next step; empty if nobody must."""
    if reason := invalid_now(certificate, now):
        return f"{reason}; {INVITED_AGAIN.format(name=name)}"
    if now >= renewal_overdue(certificate):
        return "it should have been renewed: is the daemon running and connected? Or: onlysum participant renew"
    return ""


def _shown(one: Predecessor) -> str:
    digits = one.sha256[:32]
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def _policy(opened: OpenHome) -> tuple[bool, str]:
    try:
        pinned = load_policy(opened.home).coordinator
    except OnlysumError:
        return False, ""
    present, followed = opened.owner.ca_fingerprint, opened.owner.followed
    if pinned.ca_fingerprint is None or present.startswith(pinned.ca_fingerprint):
        return False, ""
    line = f'ca_fingerprint = "{fingerprint(opened.identity.authority_der)}"'
    return pinned.pins_predecessor(present, followed), line
