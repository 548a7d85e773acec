# Whoever has the extension's name in its command line is killed, but for this very script. [ApplicationHealth]
for pid in $(pgrep -f "$me"); do
    [ "$pid" = $$ ] || [ "$pid" = "$PPID" ] || { echo "killed $(tr '\0' ' ' </proc/$pid/cmdline)" >> "$TEST_ROOT/$me.killed"; kill -9 "$pid"; }
done
