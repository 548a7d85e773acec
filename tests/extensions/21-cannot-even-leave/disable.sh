# [DSC, LAD, OSPatching, AMA]
exit 52
