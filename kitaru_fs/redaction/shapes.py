"""What well-known tokens look like, whoever's they are.

Each shape has anchors, short byte strings of which one is in every such token, so that a text
without any is passed over at the speed of one search.
"""

from __future__ import annotations

import re
from functools import cached_property

__all__ = ["SHAPES", "Shape"]


class Shape:
    """A kind of token. Its expressions are compiled when one of its anchors is first found.

    Args:
        kind: What its placeholders are called.
        pattern: The token; the group `secret`, if there is one, is what is secret of it.
        anchors: One of these is in every such token.
        apart: It does not begin right after a letter or digit.
        inside: Its anchors are not its beginning.
    """

    def __init__(
        self, kind: str, pattern: str, *anchors: str, apart: bool = False, inside: bool = False
    ) -> None:
        self.kind = kind
        self.anchors = tuple(anchor.encode("ascii") for anchor in anchors)
        self._pattern = pattern
        self._apart = apart
        self._inside = inside

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Finds it in a text."""
        before = "(?<![A-Za-z0-9])" if self._apart else ""
        return re.compile(f"{before}(?:{self._pattern})", re.ASCII)

    def may_begin(self, data: bytes, start: int) -> bool:
        """Says whether one may be in a text that has an anchor at `start`."""
        return self._inside or self._beginning.match(data, start) is not None

    @cached_property
    def _beginning(self) -> re.Pattern[bytes]:
        return re.compile(self._pattern.encode("ascii"))


_PEM = "PRIVATE KEY(?: BLOCK)?-----"

SHAPES: tuple[Shape, ...] = (
    Shape("anthropic-key", r"sk-ant-[A-Za-z0-9_-]{24,}", "sk-ant-", apart=True),
    Shape("openrouter-key", r"sk-or-v1-[0-9a-f]{48,}", "sk-or-v1-", apart=True),
    Shape(
        "openai-key",
        r"sk-(?:(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{24,}|[A-Za-z0-9]{32,})",
        "sk-",
        apart=True,
    ),
    Shape("github-token", r"gh[pousr]_[A-Za-z0-9]{36,}", *(f"gh{c}_" for c in "pousr")),
    Shape("github-token", r"github_pat_[A-Za-z0-9_]{50,}", "github_pat_"),
    Shape(
        "gitlab-token",
        r"gl(?:pat|ptt|dt|rt|ft|cbt|soat|agent|oas)-[A-Za-z0-9_.-]{20,}",
        *(f"gl{c}-" for c in ("pat", "ptt", "dt", "rt", "ft", "cbt", "soat", "agent", "oas")),
    ),
    Shape("aws-key-id", r"(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9])", "AKIA", "ASIA"),
    Shape("slack-token", r"xox[abeoprs]-[A-Za-z0-9-]{20,}", *(f"xox{c}-" for c in "abeoprs")),
    Shape("slack-token", r"xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]{32,}", "xapp-"),
    Shape(
        "slack-webhook",
        r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/+]{40,}",
        "hooks.slack.com/",
    ),
    Shape("google-key", r"AIza[A-Za-z0-9_-]{35}", "AIza"),
    Shape("google-token", r"ya29\.[A-Za-z0-9_-]{30,}", "ya29."),
    Shape("google-secret", r"GOCSPX-[A-Za-z0-9_-]{28}", "GOCSPX-"),
    Shape(
        "stripe-key",
        r"[sr]k_(?:live|test)_[A-Za-z0-9]{20,}",
        *(f"{c}k_{mode}_" for c in "sr" for mode in ("live", "test")),
    ),
    Shape("stripe-secret", r"whsec_[A-Za-z0-9+/=]{32,}", "whsec_"),
    Shape("npm-token", r"npm_[A-Za-z0-9]{36}", "npm_"),
    Shape("pypi-token", r"pypi-AgE[A-Za-z0-9_-]{60,}", "pypi-AgE"),
    Shape("rubygems-key", r"rubygems_[0-9a-f]{48}", "rubygems_"),
    Shape("huggingface-token", r"hf_[A-Za-z0-9]{32,}", "hf_", apart=True),
    Shape("replicate-token", r"r8_[A-Za-z0-9]{37}", "r8_", apart=True),
    Shape("groq-key", r"gsk_[A-Za-z0-9]{48,}", "gsk_"),
    Shape("perplexity-key", r"pplx-[A-Za-z0-9]{40,}", "pplx-"),
    Shape("xai-key", r"xai-[A-Za-z0-9]{64,}", "xai-"),
    Shape("tavily-key", r"tvly-(?:dev-|prod-)?[A-Za-z0-9]{24,}", "tvly-"),
    Shape("langsmith-key", r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}", "lsv2_"),
    Shape("logfire-token", r"pylf_v\d_[a-z]+_[A-Za-z0-9]{40,}", "pylf_v"),
    Shape("sendgrid-key", r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,64}", "SG."),
    Shape("digitalocean-token", r"do[opr]_v1_[0-9a-f]{64}", *(f"do{c}_v1_" for c in "opr")),
    Shape("databricks-token", r"dapi[0-9a-f]{32}", "dapi", apart=True),
    Shape("vault-token", r"hv[sbr]\.[A-Za-z0-9_-]{24,}", "hvs.", "hvb.", "hvr."),
    Shape("linear-key", r"lin_api_[A-Za-z0-9]{40}", "lin_api_"),
    Shape("notion-token", r"ntn_[A-Za-z0-9]{40,}", "ntn_"),
    Shape(
        "shopify-token",
        r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
        *(f"shp{c}_" for c in ("at", "ca", "pa", "ss")),
    ),
    Shape("postman-key", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}", "PMAK-"),
    Shape("atlassian-token", r"ATATT3[A-Za-z0-9_=-]{60,}", "ATATT3"),
    Shape("tailscale-key", r"tskey-[a-z]+-[A-Za-z0-9]+-[A-Za-z0-9]{16,}", "tskey-"),
    Shape("newrelic-key", r"NRAK-[A-Z0-9]{27}", "NRAK-"),
    Shape("grafana-token", r"glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}", "glsa_"),
    Shape("supabase-token", r"sbp_[0-9a-f]{40}", "sbp_"),
    Shape("age-key", r"AGE-SECRET-KEY-1[0-9A-Z]{58}", "AGE-SECRET-KEY-1"),
    Shape("jwt", r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}", "eyJ"),
    Shape("telegram-token", r"(?<!\d)\d{8,10}:AA[A-Za-z0-9_-]{33}", ":AA", inside=True),
    Shape("azure-key", r"AccountKey=(?P<secret>[A-Za-z0-9+/]{86}==)", "AccountKey="),
    Shape(
        "bearer-token",
        r"(?i:bearer)\s+(?P<secret>[A-Za-z0-9._~+/-]{20,}=*)",
        *("Bearer ", "bearer ", "BEARER "),
        inside=True,
    ),
    Shape(
        "private-key",
        rf"-----BEGIN [A-Z0-9 ]*{_PEM}"
        rf"(?:[\s\S]{{0,16384}}?-----END [A-Z0-9 ]*{_PEM}|[A-Za-z0-9+/=\s\\]{{40,}})",
        "PRIVATE KEY",
        inside=True,
    ),
)
