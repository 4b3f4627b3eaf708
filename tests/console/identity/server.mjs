// An OpenID Connect provider on 127.0.0.1 with its own sign-in page: `node server.mjs PORT REDIRECT LIFETIME`.
// Whoever signs in as NAME@TENANT:ROLE gets access tokens (RFC 9068) for the audience `cdds` that say so.
import Provider from "oidc-provider";

const [port, redirect, lifetime] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const SCOPES = {
  viewer: "cdds.read",
  operator: "cdds.read cdds.operate",
  admin: "cdds.read cdds.operate cdds.administer",
};
const role = (account) => account.split(":")[1];
const tenant = (account) => account.split(":")[0].split("@")[1];

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "console",
      client_secret: "the console's secret, for tests",
      redirect_uris: [redirect],
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
    },
  ],
  pkce: { required: () => true },
  scopes: ["openid", "offline_access", "cdds.read", "cdds.operate", "cdds.administer"],
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  issueRefreshToken: () => true,
  rotateRefreshToken: true,
  ttl: { AccessToken: Number(lifetime) },
  extraTokenClaims: (_, token) => ({ tenant: tenant(token.accountId), scope: SCOPES[role(token.accountId)] }),
  features: {
    devInteractions: { enabled: true },
    rpInitiatedLogout: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => "urn:cdds",
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: SCOPES.admin,
        audience: "cdds",
        accessTokenTTL: Number(lifetime),
        accessTokenFormat: "jwt",
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
  cookies: { keys: ["only for tests"] },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
