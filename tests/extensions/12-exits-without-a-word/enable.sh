# How it ends and what it writes are two things; the settings say which.
case $(setting case) in
silent) exit 0 ;;
dies) echo "no status from me" >&2; exit 3 ;;
wrong) status error "ends well, says it failed"; exit 0 ;;
both) status failed "fails and says so"; exit 1 ;;
esac
