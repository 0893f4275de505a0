import pytest
from pydantic import TypeAdapter, ValidationError

from provisioner.domain.values.subnet import Network, NetworkPool


@pytest.mark.parametrize("text", ["10.213.0.0/28", "0.0.0.0/0", "198.18.0.1/32"])
def test_a_network_is_read(text: str) -> None:
    assert TypeAdapter(Network).validate_python(text) == text


@pytest.mark.parametrize(
    "text", ["", "10.213.0.1/16", "10.213.0.0", "10.213.0.0/33", "010.1.1.0/24", "fd00::/8", "x/1"]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Network).validate_python(text)


@pytest.mark.parametrize("text", ["8.8.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "10.213.0.0/29", "0.0.0.0/0"])
def test_a_pool_is_private_and_has_room_for_a_seat(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(NetworkPool).validate_python(text)
