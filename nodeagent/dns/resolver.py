# SPDX-License-Identifier: Apache-2.0
"""Asks the DNS as the node's own programs would: servers, search domains and options of a resolv.conf, read each time.

In one thing not as they do it: /etc/hosts and other sources of nsswitch.conf are not asked, since they have no TTL.
"""

import asyncio

from nodeagent.dns.book import Family, Outcome, Outcomes
from nodeagent.model.address import parse_ip

LIFETIME_SECONDS = 5.0
"""Of one question, with all servers and search domains: then it has failed."""
NEGATIVE_SECONDS = 30.0
"""For which "no such name" holds. The SOA's own number is often an hour: too long for a name that is being set up."""


class NodeResolver:
    def __init__(self, resolv_conf: str) -> None:
        self._path = resolv_conf

    async def look_up(self, name: str) -> Outcomes:
        """Both families at once. Never raises for what a resolver, a name or the file may be like."""
        async with asyncio.TaskGroup() as group:
            asked = {family: group.create_task(self._ask(name, family)) for family in Family}
        return {family: task.result() for family, task in asked.items()}

    async def _ask(self, name: str, family: Family) -> Outcome:
        import dns.asyncresolver  # 8 MiB, which most agents never need
        import dns.exception
        import dns.resolver

        kind = "A" if family is Family.IPV4 else "AAAA"
        try:
            resolver = dns.asyncresolver.Resolver(self._path)
            answer = await resolver.resolve(
                name, kind, search=True, lifetime=LIFETIME_SECONDS, raise_on_no_answer=False
            )
            found = tuple(parse_ip(record.address) for record in answer.rrset or ())
        except dns.resolver.NXDOMAIN:
            return Outcome(seconds=NEGATIVE_SECONDS, words="there is no such name")
        except dns.resolver.NoResolverConfiguration as error:
            return Outcome(words=f"{self._path}: {error}", is_answer=False)
        except dns.resolver.NoNameservers:
            return Outcome(words="no server of the node's resolver could answer", is_answer=False)
        except dns.exception.Timeout:
            return Outcome(words=f"the node's resolver did not answer within {LIFETIME_SECONDS:.0f} s", is_answer=False)
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return Outcome(words=" ".join(str(error).split()) or type(error).__name__, is_answer=False)
        if not found:
            return Outcome(seconds=NEGATIVE_SECONDS, words="it has no address")
        return Outcome(found, float(answer.chaining_result.minimum_ttl))
