#!/bin/sh
# In a VM of the lab: an address by DHCP, what provisioning leaves on a VM, and then the unmodified reference agent.
set -eu
package=$1

dhclient -1 eth0
mkdir -p /var/lib/waagent /etc/ssh
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t rsa -N '' -f /etc/ssh/ssh_host_rsa_key
sed -e 's/^ResourceDisk.Format=y/ResourceDisk.Format=n/' -e 's/^Logs.Collect=y/Logs.Collect=n/' \
    -e 's/^OS.RootDeviceScsiTimeout=.*//' -e 's/^Provisioning.MonitorHostName=y/Provisioning.MonitorHostName=n/' \
    -e '/^Extensions.*GoalStatePeriod=/d' "$package/etc/waagent.conf" >/etc/waagent.conf
# Its own setting for those who have no time.
echo 'Extensions.GoalStatePeriod=1' >>/etc/waagent.conf
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
