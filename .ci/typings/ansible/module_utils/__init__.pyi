"""Types of ansible.module_utils; `provisioner` is a link to our own package."""
