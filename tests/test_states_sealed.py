"""What holds for states holds for sealed ones: the same tests, on a cipher with real keys."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests import (
    test_states,
    test_states_crashes,
    test_states_faults,
    test_states_parts,
    test_states_repair,
)
from tests.desk import Desk
from tests.test_states import desk as desk

from xenolect_backends.local_keys import EnvKeys
from xenolect_plugins.aes_gcm import AesGcm

pytestmark = pytest.mark.slow  # tests/test_places.py has a part of them by default
UNSEALED = {
    "test_a_hundred_and_thirty_versions_are_readable_anew",  # counts reads, and keys are read too
    "test_read_into_says_what_it_needs",  # that "tag" needs a cipher
    "test_two_chunks_of_one_content_can_not_be_swapped",  # in test_sealed_objects.py, with all kinds
    "test_a_damaged_chunk_leaves_zeros_in_the_buffer",  # forges an object, which needs no key there
    "test_a_bomb_is_refused_without_growing",
    "test_a_cipher_slots_in",  # has one of its own
    "test_the_flags_say_how_a_chunk_is_stored",
    "test_chunks_of_another_store_are_refused",  # in words of its own, as above
}
TESTS = {
    name: test
    for module in (
        test_states,
        test_states_parts,
        test_states_faults,
        test_states_crashes,
        test_states_repair,
    )
    for name, test in vars(module).items()
    if name.startswith("test_")
}
globals().update({name: test for name, test in TESTS.items() if name not in UNSEALED})


@pytest.fixture(scope="module", autouse=True)
def usually_sealed() -> Iterator[None]:
    """Every desk of this module seals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEALING_KEY", os.urandom(32).hex())
        patch.setattr(Desk, "usual_cipher", AesGcm(EnvKeys("SEALING_KEY")))
        yield


def test_the_tests_that_are_left_out_exist() -> None:
    """None of them was renamed without being looked at."""
    assert set(TESTS) >= UNSEALED
