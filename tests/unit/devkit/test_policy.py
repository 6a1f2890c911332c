from __future__ import annotations

from agent.devkit.kbs.policy import Policy


def test_everything_that_attested_is_allowed_by_default() -> None:
    policy = Policy()
    assert policy.permits("resource", "default/key/1", "sample")
    assert policy.permits("nebula-ca", "credential", "sample")


def test_trustees_default_denies_samples_and_other_plugins() -> None:
    policy = Policy(trustee_default=True)
    assert not policy.permits("resource", "default/key/1", "sample")
    assert policy.permits("resource", "default/key/1", "snp")
    assert not policy.permits("nebula-ca", "credential", "snp")


def test_of_the_rules_that_match_the_last_decides() -> None:
    policy = Policy()
    policy.deny("prod/*")
    policy.allow("prod/public/*")
    assert policy.permits("resource", "default/key/1", "sample")
    assert not policy.permits("resource", "prod/key/1", "sample")
    assert policy.permits("resource", "prod/public/1", "sample")
    policy.deny()
    assert not policy.permits("resource", "prod/public/1", "sample")
    policy.clear()
    assert policy.permits("resource", "prod/key/1", "sample")


def test_rules_can_name_the_tee_and_the_plugin() -> None:
    policy = Policy()
    policy.deny(tee="sample")
    policy.deny(plugin="external")
    assert not policy.permits("resource", "a/b/c", "sample")
    assert policy.permits("resource", "a/b/c", "tdx")
    assert not policy.permits("external", "a", "tdx")
    assert len(policy.rules) == 2
