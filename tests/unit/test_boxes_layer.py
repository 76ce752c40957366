from boxes.layer import control_packages


def test_layers_have_what_the_packages_need_and_none_of_the_packages() -> None:
    needed = control_packages("Depends", "Recommends", "Build-Depends")
    assert {"python3-uvloop", "certbot", "dh-python", "debhelper"} <= set(needed)
    assert not [name for name in needed if name.startswith("tenement")]
