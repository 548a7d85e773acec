"""Documents as a host sends them, with invented values; parsers are tested with them, whole and mutated."""

GOAL_STATE = b"""<?xml version="1.0" encoding="utf-8"?>
<GoalState><Version>2012-11-30</Version><Incarnation>4</Incarnation>
 <Machine><ExpectedState>Started</ExpectedState><LBProbePorts><Port>17017</Port><Port>nonsense</Port></LBProbePorts></Machine>
 <Container><ContainerId>0c1d</ContainerId><RoleInstanceList><RoleInstance>
  <InstanceId>1111._vm0</InstanceId><State>Started</State><Configuration>
   <HostingEnvironmentConfig>http://h/machine/0c1d/vm0?comp=config&amp;type=h</HostingEnvironmentConfig>
   <SharedConfig>http://h/machine/0c1d/vm0?comp=config&amp;type=s</SharedConfig>
   <ExtensionsConfig>http://h/machine/0c1d/vm0?comp=config&amp;type=e</ExtensionsConfig>
   <Certificates>http://h/machine/0c1d/vm0?comp=certificates</Certificates>
   <ConfigName>1111.2.1111.3._vm0.1.xml</ConfigName></Configuration>
 </RoleInstance></RoleInstanceList></Container></GoalState>"""

EXTENSIONS_CONFIG = b"""<Extensions version="1.0.0.0" goalStateIncarnation="4">
 <GuestAgentExtension><GAFamilies><GAFamily><Name>Prod</Name><Version>3.1.0.2</Version>
   <IsVersionFromRSM>true</IsVersionFromRSM><Uris><Uri>https://emu/ga/prod.xml</Uri></Uris></GAFamily></GAFamilies></GuestAgentExtension>
 <RequiredFeatures><RequiredFeature><Name>MultipleExtensionsPerHandler</Name></RequiredFeature></RequiredFeatures>
 <Plugins>
  <Plugin name="Contoso.Tools.Greeter" version="2.0.1" location="https://emu/m/greeter.xml"
    failoverlocation="https://emu2/m/greeter.xml" state="enabled" encodedSignature="">
   <additionalLocations><additionalLocation>https://emu3/m/greeter.xml</additionalLocation></additionalLocations></Plugin>
  <Plugin name="Contoso.Tools.Runner" version="1.3.0" location="https://emu/m/runner.xml" state="enabled"/>
  <Plugin name="Contoso.Tools.Plain" version="1.0" location="https://emu/m/plain.xml" state="disabled"/>
 </Plugins>
 <PluginSettings>
  <Plugin name="contoso.tools.GREETER" version="2.0.1">
   <DependsOn dependencyLevel="1"><DependsOnExtension handler="Contoso.Tools.Runner"/></DependsOn>
   <RuntimeSettings seqNo="5">{"runtimeSettings":[{"handlerSettings":{"publicSettings":{"who":"world"},"protectedSettings":"MIIB","protectedSettingsCertThumbprint":"0a1b"}}]}</RuntimeSettings></Plugin>
  <Plugin name="Contoso.Tools.Runner" version="1.3.0">
   <DependsOn dependencyLevel="2" name="jobB"><DependsOnExtension extension="jobA" handler="Contoso.Tools.Runner"/></DependsOn>
   <ExtensionRuntimeSettings seqNo="2" name="jobA" state="enabled">{"runtimeSettings":[{"handlerSettings":{"publicSettings":{"cmd":"date"}}}]}</ExtensionRuntimeSettings>
   <ExtensionRuntimeSettings seqNo="0" name="jobB" state="disabled">{"runtimeSettings":[{"handlerSettings":{}}]}</ExtensionRuntimeSettings></Plugin>
 </PluginSettings>
 <StatusUploadBlob statusBlobType="BlockBlob">https://emu/s/vm7.status?sv=1&amp;sr=b&amp;sig=zz</StatusUploadBlob>
 <InVMGoalStateMetaData inSvdSeqNo="4" createdOnTicks="639100000000000000" activityId="act-1" correlationId="cor-1"/>
</Extensions>"""

VM_SETTINGS = rb"""{"hostGAPluginVersion":"1.0.8.160","vmSettingsSchemaVersion":"0.0","activityId":"act-01","correlationId":"cor-01","inSvdSeqNo":3,
 "extensionsLastModifiedTickCount":639100000000000000,"extensionGoalStatesSource":"FastTrack","onHold":false,
 "statusUploadBlob":{"statusBlobType":"PageBlob","value":"https://emu/s/vm7.status?sv=1&sr=b&sig=zz"},
 "gaFamilies":[{"name":"Prod","uris":["https://emu/ga/prod.xml"]}],"requiredFeatures":[{"name":"MultipleExtensionsPerHandler"}],
 "extensionGoalStates":[
  {"name":"Contoso.Tools.Greeter","version":"2.0.1","location":"https://emu/m/greeter.xml","FAILOVERlocation":"https://emu2/m/greeter.xml","state":"enabled","settingsSeqNo":5,"isMultiConfig":false,
   "settings":[{"publicSettings":"{\"who\":\"world\"}"}],"dependsOn":[{"dependsOnExtension":[{"handler":"Contoso.Tools.Runner"}],"dependencyLevel":1}]},
  {"name":"Contoso.Tools.Runner","version":"1.3.0","location":"https://emu/m/runner.xml","state":"enabled","isMultiConfig":true,
   "settings":[{"extensionName":"jobA","seqNo":2,"extensionState":"enabled","publicSettings":"{\"cmd\":\"date\"}"},
               {"extensionName":"jobB","seqNo":0,"extensionState":"disabled"}]}]}"""

MANIFEST = b"""<PluginVersionManifest><Plugins>
 <Plugin><Version>1.0.0</Version><Uris><Uri>https://emu/p/1.0.0.zip</Uri></Uris></Plugin>
 <Plugin><Version>1.4.2</Version><Uris><Uri>https://emu/p/1.4.2.zip</Uri><Uri>https://emu2/p/1.4.2.zip</Uri></Uris></Plugin>
 <Plugin><Version>not a version</Version><Uris><Uri>https://emu/p/x.zip</Uri></Uris></Plugin>
 </Plugins><InternalPlugins><Plugin><Version>2.0.0-rc1</Version><Uris><Uri>https://emu/p/2.zip</Uri></Uris></Plugin></InternalPlugins>
</PluginVersionManifest>"""

HOSTING_ENVIRONMENT = (
    b'<HostingEnvironmentConfig><Deployment name="dep-77"/><Incarnation number="1" instance="_vm0"/>'
    b'<Role name="_vm0"/></HostingEnvironmentConfig>'
)
CERTIFICATES = (
    b"<CertificateFile><Version>2012-11-30</Version><Incarnation>4</Incarnation>"
    b"<Format>Pkcs7BlobWithPfxContents</Format><Data>TUlJ\nSg==</Data></CertificateFile>"
)
PROFILE = b'{"onHold": "True", "profileId": "p"} \0\0'
