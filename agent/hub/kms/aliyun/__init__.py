"""Alibaba Cloud KMS (cdh.md 5.4): a dedicated instance by client key, the shared one by session tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.hub.kms.aliyun.client_key import ClientKeyClient
from agent.hub.kms.aliyun.common import bad_settings
from agent.hub.kms.aliyun.session import EcsRamRole, StsToken
from agent.hub.kms.base import Backend

if TYPE_CHECKING:
    from agent.hub.kms.base import Context


class AliyunSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``provider_settings``; which members count depends on the first.

    Attributes:
        client_type: ``client_key``, ``ecs_ram_role`` or ``sts_token``.
        client_key_id: ``KAAP...``, with ``client_key``.
        kms_instance_id: ``kst-...``, with ``client_key``.
        token_path: with ``sts_token``; its last part names the credentials file.
        region_id: ``cn-shanghai``, with ``sts_token``.
    """

    client_type: str
    client_key_id: str = ""
    kms_instance_id: str = ""
    token_path: str = ""
    region_id: str = ""


def _open(given: AliyunSettings, context: Context) -> object:
    match given.client_type:
        case "client_key":
            return ClientKeyClient(given.kms_instance_id, given.client_key_id, context)
        case "sts_token":
            return StsToken(given.token_path, given.region_id, context)
        case "ecs_ram_role":
            return EcsRamRole(context)
    raise bad_settings("client_type is client_key, ecs_ram_role or sts_token")


BACKEND: Final = Backend("aliyun", AliyunSettings, _open)
