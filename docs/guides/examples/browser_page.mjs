// A page in a browser: signs the person in (PKCE), and exchanges its token for a handle that is bound to its key.
// Insert VAULT_URL and CLIENT_ID when you build the page.
const encode = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "");
const digest = async (text) => encode(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
const here = location.origin + location.pathname;

async function proof(key, method, url, token) {
  const { kty, crv, x, y } = await crypto.subtle.exportKey("jwk", key.publicKey);
  const head = { typ: "dpop+jwt", alg: "ES256", jwk: { kty, crv, x, y } };
  const body = { jti: crypto.randomUUID(), htm: method, htu: url, iat: Math.floor(Date.now() / 1000) };
  if (token) body.ath = await digest(token);
  const text = [head, body].map((part) => encode(new TextEncoder().encode(JSON.stringify(part)))).join(".");
  const signed = await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, key.privateKey, new TextEncoder().encode(text));
  return `${text}.${encode(signed)}`;
}

export async function signIn() {
  const verifier = encode(crypto.getRandomValues(new Uint8Array(32)));
  sessionStorage.setItem("verifier", verifier);
  location.href = `${VAULT_URL}/authorize?` + new URLSearchParams({
    response_type: "code",
    client_id: CLIENT_ID,
    redirect_uri: here,
    scope: "exchange",
    code_challenge: await digest(verifier),
    code_challenge_method: "S256",
  });
}

export async function post(channel, text) {
  const key = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]);
  const token = async (form) => {
    const headers = { dpop: await proof(key, "POST", `${VAULT_URL}/token`) };
    const body = new URLSearchParams({ client_id: CLIENT_ID, ...form });
    return (await fetch(`${VAULT_URL}/token`, { method: "POST", headers, body })).json();
  };
  const own = await token({
    grant_type: "authorization_code",
    code: new URLSearchParams(location.search).get("code"),
    redirect_uri: here,
    code_verifier: sessionStorage.getItem("verifier"),
  });
  const handle = await token({
    grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
    subject_token: own.access_token,
    subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
    audience: "slack",
    scope: "chat:write",
  });
  const url = `${handle.api_base_url}/chat.postMessage`;
  const headers = {
    authorization: `DPoP ${handle.access_token}`,
    dpop: await proof(key, "POST", url, handle.access_token),
    "content-type": "application/json; charset=utf-8",
  };
  return (await fetch(url, { method: "POST", headers, body: JSON.stringify({ channel, text }) })).json();
}
