// Calls of capture only: the native core wants the symbols, no test calls them. cuda.h is left out on
// purpose.
#define UNSUPPORTED(name) \
    extern "C" int name() { return 801; }

UNSUPPORTED(cuFuncGetModule)
UNSUPPORTED(cuFuncGetName)
UNSUPPORTED(cuFuncGetParamInfo)
UNSUPPORTED(cuGraphChildGraphNodeGetGraph)
UNSUPPORTED(cuGraphGetEdges_v2)
UNSUPPORTED(cuGraphGetNodes)
UNSUPPORTED(cuGraphKernelNodeGetAttribute)
UNSUPPORTED(cuGraphKernelNodeGetParams_v2)
UNSUPPORTED(cuGraphMemcpyNodeGetParams)
UNSUPPORTED(cuGraphMemsetNodeGetParams)
UNSUPPORTED(cuGraphNodeGetType)
UNSUPPORTED(cuLibraryGetModule)
UNSUPPORTED(cuPointerGetAttribute)
