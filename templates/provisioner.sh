# Debian's /etc/profile sets PATH anew in every login shell, and so loses the lab's environment.
case ":$PATH:" in
*:/opt/provisioner/env/bin:*) ;;
*) PATH=/opt/provisioner/env/bin:$PATH ;;
esac
