#!/bin/sh
# In a VM: what provisioning leaves there, and then the unmodified reference agent of PACKAGE, which looks at the goal
# state each PERIOD seconds (by itself: six). SETTINGs are lines of its configuration.
set -eu
package=$1 period=${2:-}

# It makes /etc a new VM's: never the machine's own.
for folder in /etc /var; do
    mountpoint -q "$folder" || { echo "$folder is not a mount of its own: this is no VM" >&2; exit 2; }
done
mkdir -p /var/lib/waagent /etc/ssh
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t rsa -N '' -f /etc/ssh/ssh_host_rsa_key
sed -e 's/^ResourceDisk.Format=y/ResourceDisk.Format=n/' -e 's/^Logs.Collect=y/Logs.Collect=n/' \
    -e 's/^OS.RootDeviceScsiTimeout=.*//' -e 's/^Provisioning.MonitorHostName=y/Provisioning.MonitorHostName=n/' \
    -e '/^Extensions.*GoalStatePeriod=/d' "$package/etc/waagent.conf" >/etc/waagent.conf
# Its own setting for those who have no time.
[ -z "$period" ] || echo "Extensions.GoalStatePeriod=$period" >>/etc/waagent.conf
[ $# -le 2 ] || { shift 2; printf '%s\n' "$@" >>/etc/waagent.conf; }
cat >/var/lib/waagent/ovf-env.xml <<'END'
<?xml version="1.0" encoding="utf-8"?>
<Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:wa="http://schemas.microsoft.com/windowsazure">
  <wa:ProvisioningSection>
    <wa:Version>1.0</wa:Version>
    <LinuxProvisioningConfigurationSet xmlns="http://schemas.microsoft.com/windowsazure">
      <ConfigurationSetType>LinuxProvisioningConfiguration</ConfigurationSetType>
      <HostName>vm1</HostName>
      <UserName>azureuser</UserName>
      <DisableSshPasswordAuthentication>true</DisableSshPasswordAuthentication>
    </LinuxProvisioningConfigurationSet>
  </wa:ProvisioningSection>
  <wa:PlatformSettingsSection>
    <wa:Version>1.0</wa:Version>
    <PlatformSettings xmlns="http://schemas.microsoft.com/windowsazure">
      <ProvisionGuestAgent>true</ProvisionGuestAgent>
    </PlatformSettings>
  </wa:PlatformSettingsSection>
</Environment>
END

cd /
# Not as the first process: the agent takes a parent with pid 1 for a sign that its daemon is gone.
PYTHONPATH=$package/usr/lib/python3/dist-packages /usr/bin/python3 "$package/usr/sbin/waagent" -daemon
