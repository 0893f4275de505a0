# Debian's /etc/profile sets PATH anew in every login shell, and so loses the lab's environment.
for provisioner_programs in /opt/provisioner/course/bin /opt/provisioner/env/bin; do
    case ":$PATH:" in
    *":$provisioner_programs:"*) ;;
    *) if [ -d "$provisioner_programs" ]; then PATH=$provisioner_programs:$PATH; fi ;;
    esac
done
unset provisioner_programs
