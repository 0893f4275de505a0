# What the lab tells its people, in every new interactive shell: by SSH, and in a terminal of JupyterLab.
case $- in
*i*)
    if [ -s /etc/provisioner/notice/notice.txt ]; then
        printf '\n*** '
        # It was checked when it was written; this is for the day on which it was not.
        head -c 2000 /etc/provisioner/notice/notice.txt | tr -d '\000-\011\013-\037\177'
        printf '\n'
    fi
    ;;
esac
