# provisioner, beside this file, is a link to playbooks/module_utils/provisioner.
