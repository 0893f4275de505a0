# Notices, in every new interactive shell, by SSH and in a terminal of JupyterLab: that of the admin, and the warning of
# a full disk.
case $- in
*i*)
    for provisioner_notice in /etc/provisioner/notice/notice.txt /etc/provisioner/notice/disk.txt; do
        if [ -s "$provisioner_notice" ]; then
            printf '\n*** '
            # It was checked when it was written; this is for the day on which it was not.
            head -c 2000 "$provisioner_notice" | tr -d '\000-\011\013-\037\177'
            printf '\n'
        fi
    done
    unset provisioner_notice
    ;;
esac
